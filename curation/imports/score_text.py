"""Capability scores and styles as other people's files hold them: numbers, or whatever a model said.

Two ways to read them. `clean`: a score is a whole number 0..5, a style one of the nine or `other`; what is neither is
missing and counted by reason. `official` follows the released code of mmSSR (arXiv 2503.13383): a score is whatever
Python's int() takes, a style is any text between commas.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.signals.core.table import SignalError
from curation.taxonomy import MAX_SCORE, STYLES

MODES = ("clean", "official")
OTHER = "other"
_BETWEEN = "\x1f"
FAILED = -(1 << 15)
"""Codes from here on are reasons why there is no score: FAILED + place in REASONS."""
REASONS: dict[str, str] = {
    "no_line": "the file has no line for the sample",
    "no_value": "null",
    "nan": "NaN",
    "not_an_integer": "not a whole number",
    "out_of_range": f"a whole number outside 0..{MAX_SCORE} (official: of more than four digits)",
}
"""Why a sample has no score."""
BAD = ("broken_line", "no_idx", "not_an_integer", "out_of_range")
"""What counts against `max_bad_fraction`; the others are missing values, for which every selector has a policy."""
_RANGE = {"clean": range(MAX_SCORE + 1), "official": range(-9999, 10_000)}


class ScoreError(SignalError):
    """Scores or styles that cannot be used as a whole."""


def squash(text: str) -> str:
    """Lower-case letters and digits only: `Yes / No`, `yes_no` and `yes/no` are the same."""
    return re.sub(r"[\W_]+", "", text.lower())


_STYLE_KEYS = {squash(name): key for key, phrase in STYLES.items() for name in (key, phrase)} | {OTHER: OTHER}


def score_code(value: object, mode: str = "clean") -> int:
    """The score that `value` (text or number) holds, or FAILED + reason."""
    if value is None:
        return failed("no_value")
    if isinstance(value, float) and np.isnan(value):
        return failed("nan")
    number = _official_number(value) if mode == "official" else _whole_number(value)
    if number is None:
        return failed("not_an_integer")
    return number if number in _RANGE[mode] else failed("out_of_range")


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return (
        int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,6}\s*", value, re.ASCII)
        else None
    )


def _official_number(value: object) -> int | None:
    if not isinstance(value, str):
        return _whole_number(value)
    try:
        return int(value)
    except ValueError:
        return None


def failed(reason: str) -> int:
    """The code of a reason why there is no score."""
    return FAILED + list(REASONS).index(reason)


def reason_counts(codes: np.ndarray) -> dict[str, int]:
    """How many of the codes are failures, by reason; reasons that do not occur are left out."""
    counts = np.bincount(
        codes[codes < FAILED + len(REASONS)].astype(np.int64) - FAILED, minlength=len(REASONS)
    )
    return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if count}


def score_array(codes: np.ndarray, mode: str = "clean") -> pa.Array:
    """Scores int8[n] (official: int16), null where there is none."""
    mask = codes < FAILED + len(REASONS)
    return pa.array(np.where(mask, 0, codes).astype(np.int8 if mode == "clean" else np.int16), mask=mask)


def codes_by_text(
    texts: pa.Array, parse: Callable[[str | None], int], known: dict[str | None, int]
) -> np.ndarray:
    """int32[n]: `parse` of every text, called once for each distinct one; `known` is kept from call to call."""
    encoded = texts.dictionary_encode(null_encoding="encode")
    distinct = encoded.dictionary.to_pylist()
    for text in distinct:
        if text not in known:
            known[text] = parse(text)
    return np.array([known[text] for text in distinct], np.int32)[encoded.indices.to_numpy()]


def score_column(column: pa.ChunkedArray, name: str, mode: str = "clean") -> np.ndarray:
    """Score codes int32[n] of a column of numbers or texts. Raises ScoreError for another type."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        known: dict[str | None, int] = {}
        return codes_by_text(column.cast(kind).combine_chunks(), lambda text: score_code(text, mode), known)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ScoreError(
            f"column {name!r} is {column.type}; scores are whole numbers 0..{MAX_SCORE}, or texts of them"
        )
    values = column.cast(pa.float64(), safe=False).to_numpy()  # what float64 rounds is far beyond the scale
    whole = np.floor(values) == values
    codes = np.full(len(values), failed("not_an_integer"), np.int32)
    codes[whole] = failed("out_of_range")
    taken = whole & (values >= _RANGE[mode][0]) & (values <= _RANGE[mode][-1])
    codes[taken] = values[taken]
    codes[np.isnan(values)] = failed("nan")
    codes[column.is_null().to_numpy()] = failed("no_value")
    return codes


@dataclass
class StyleTexts:
    """Lists of styles by code, as texts are read; `unknown` counts the rows of each phrase that is no style."""

    mode: str = "clean"
    lists: list[tuple[str, ...]] = field(default_factory=list)
    phrases: list[tuple[str, ...]] = field(default_factory=list)
    _codes: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = field(default_factory=dict)

    def value(self, value: object) -> int:
        """Code of a JSON value: a text with commas, a list of texts, null."""
        if isinstance(value, list):
            return self.listed([str(part) for part in value]) if value else failed("no_value")
        return self.code(value if value is None else str(value))

    def code(self, text: str | None) -> int:
        """Code of the styles that a text names (comma separated); FAILED + `no_value` for null."""
        return failed("no_value") if text is None else self.listed(text.split(","))

    def listed(self, parts: list[str]) -> int:
        """Code of a list of styles. Clean: the nine keys and `other`, none named is `other`; official: as they stand."""
        stripped = [part.strip() for part in parts]
        if self.mode == "official":
            return self._code(tuple(dict.fromkeys(stripped)), ())
        named = [part for part in stripped if part]
        keys = tuple(dict.fromkeys(_STYLE_KEYS.get(squash(part), OTHER) for part in named)) or (OTHER,)
        unknown = tuple(dict.fromkeys(part for part in named if squash(part) not in _STYLE_KEYS))
        return self._code(keys, unknown if named else ("",))

    def _code(self, keys: tuple[str, ...], unknown: tuple[str, ...]) -> int:
        if (keys, unknown) not in self._codes:
            self._codes[keys, unknown] = len(self.lists)
            self.lists.append(keys)
            self.phrases.append(unknown)
        return self._codes[keys, unknown]

    def array(self, codes: np.ndarray) -> pa.Array:
        """list<string>[n], null where the code is a failure."""
        table = pa.array([list(keys) for keys in self.lists], pa.list_(pa.string()))
        return table.take(pa.array(codes, mask=codes < 0))

    def unknown(self, codes: np.ndarray) -> dict[str, int]:
        """Rows by phrase that is no style (`""`: no phrase at all), most frequent first."""
        counts = np.bincount(codes[codes >= 0], minlength=len(self.lists))
        total: dict[str, int] = {}
        for count, phrases in zip(counts.tolist(), self.phrases, strict=True):
            for phrase in phrases if count else ():
                total[phrase] = total.get(phrase, 0) + count
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def style_column(column: pa.ChunkedArray, styles: StyleTexts) -> np.ndarray:
    """Style codes int32[n] of a column of comma-separated texts, or of lists of texts; null and an empty list are `no_value`.

    Raises ScoreError for another type.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count == len(column):
        return np.full(len(column), failed("no_value"), np.int32)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return codes_by_text(column.cast(kind).combine_chunks(), styles.code, {})
    if not ((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type)):
        raise ScoreError(f"column 'styles' is {column.type}; it holds lists of texts, or texts with commas")
    # Each list becomes one text, so that each distinct list is read once.
    joined = pc.binary_join(column.combine_chunks(), _BETWEEN)
    if joined.null_count > column.null_count:
        raise ScoreError("column 'styles' has lists that hold null; leave those out")
    return codes_by_text(
        joined, lambda text: styles.listed(text.split(_BETWEEN)) if text else failed("no_value"), {}
    )


def check_bad(counts: Mapping[str, int], lines: int, max_bad_fraction: float, where: str) -> None:
    """Raises ScoreError, with the counts, where more than `max_bad_fraction` of the lines are broken or hold no score."""
    bad = {reason: counts[reason] for reason in BAD if counts.get(reason)}
    if sum(bad.values()) > max_bad_fraction * lines:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in bad.items())
        raise ScoreError(
            f"{where}: {sum(bad.values()):,} of {lines:,} lines cannot be used ({listed}), more than "
            f"{max_bad_fraction:.1%}; repair the file, or allow them with --max-bad-fraction"
        )


def check_styles(unknown: Mapping[str, int], codes: np.ndarray | None, where: str) -> None:
    """Raises ScoreError where every row with a style names an unknown one: the wording is then another one."""
    if codes is None or not unknown or max(unknown.values()) < (codes >= 0).sum():
        return
    phrase = next(iter(unknown))
    near = nearest_style(phrase)
    raise ScoreError(
        f"{where}: every row has the unknown style {phrase!r}{f' (did you mean {near!r}?)' if near else ''}; known are {', '.join(STYLES)}"
    )


def nearest_style(phrase: str) -> str | None:
    """The style that a phrase is most like, if any is near."""
    near = difflib.get_close_matches(squash(phrase), _STYLE_KEYS, n=1, cutoff=0.6)
    return _STYLE_KEYS[near[0]] if near else None
