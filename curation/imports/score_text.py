"""Parse capability scores and styles of foreign files: numbers, or the raw output of a model.

Two modes. `clean`: a score is a whole number 0..5, a style is one of the nine or `other`; anything else is
missing and counted by reason. `official` follows the released code of mmSSR (arXiv 2503.13383): a score is
whatever Python's int() accepts, a style is any text between commas.

Scores and style lists are handled as integer codes, so that each distinct text is parsed only once: a code of
at least FAILED + len(REASONS) is a score, or an index into `StyleTexts.lists`; smaller codes are reasons for
a missing value.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.nearest import nearest
from curation.signals.core.table import SignalError
from curation.taxonomy import MAX_SCORE, STYLES

MODES = ("clean", "official")
OTHER = "other"
_SEPARATOR = "\x1f"  # joins the items of a list; no style holds this control character
FAILED = -(1 << 15)
"""First code for a missing value: FAILED + position in REASONS. Every score is above these codes."""
REASONS: dict[str, str] = {
    "no_line": "the file has no line for the sample",
    "no_value": "null",
    "nan": "NaN",
    "not_an_integer": "not a whole number",
    "out_of_range": f"a whole number outside 0..{MAX_SCORE} (official: of more than four digits)",
}
"""Why a sample has no score or style."""
BAD = ("broken_line", "no_idx", "not_an_integer", "out_of_range")
"""Reasons that count against `max_bad_fraction`; selectors have a policy for the others."""
_RANGE = {"clean": range(MAX_SCORE + 1), "official": range(-9999, 10_000)}


class ScoreError(SignalError):
    """A file or column of scores or styles that cannot be used."""


def squash(text: str) -> str:
    """Only the letters and digits, in lower case: `Yes / No`, `yes_no` and `yes/no` become equal."""
    return re.sub(r"[\W_]+", "", text.lower())


_STYLE_KEYS = {squash(name): key for key, phrase in STYLES.items() for name in (key, phrase)} | {OTHER: OTHER}


def score_code(value: object, mode: str = "clean") -> int:
    """The score in `value` (text or number), or the code of the reason why there is none."""
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
    """The code of a reason for a missing value."""
    return FAILED + list(REASONS).index(reason)


def reason_counts(codes: np.ndarray) -> dict[str, int]:
    """Number of missing values by reason; reasons that do not occur are left out."""
    counts = np.bincount(
        codes[codes < FAILED + len(REASONS)].astype(np.int64) - FAILED, minlength=len(REASONS)
    )
    return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if count}


def score_array(codes: np.ndarray, mode: str = "clean") -> pa.Array:
    """Scores int8[n] (official: int16), null where missing."""
    mask = codes < FAILED + len(REASONS)
    return pa.array(np.where(mask, 0, codes).astype(np.int8 if mode == "clean" else np.int16), mask=mask)


def codes_by_text(
    texts: pa.Array, parse: Callable[[str | None], int], known: dict[str | None, int]
) -> np.ndarray:
    """int32[n]: `parse` of every text, called once per distinct text; `known` caches the results."""
    encoded = texts.dictionary_encode(null_encoding="encode")
    distinct = encoded.dictionary.to_pylist()
    for text in distinct:
        if text not in known:
            known[text] = parse(text)
    return np.array([known[text] for text in distinct], np.int32)[encoded.indices.to_numpy()]


def score_column(column: pa.ChunkedArray, name: str, mode: str = "clean") -> np.ndarray:
    """Score codes int32[n] of a column of numbers or texts. Raises ScoreError for other types."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        known: dict[str | None, int] = {}
        return codes_by_text(column.cast(kind).combine_chunks(), lambda text: score_code(text, mode), known)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ScoreError(
            f"column {name!r} is {column.type}; scores must be whole numbers 0..{MAX_SCORE}, or texts of them"
        )
    values = column.cast(pa.float64(), safe=False).to_numpy()  # float64 rounds only far outside the scale
    whole = np.floor(values) == values
    codes = np.full(len(values), failed("not_an_integer"), np.int32)
    codes[whole] = failed("out_of_range")
    valid = whole & (values >= _RANGE[mode][0]) & (values <= _RANGE[mode][-1])
    codes[valid] = values[valid]
    codes[np.isnan(values)] = failed("nan")
    codes[column.is_null().to_numpy()] = failed("no_value")
    return codes


@dataclass
class StyleTexts:
    """Lists of styles by code, filled as texts are parsed.

    lists: the style keys of each code. phrases: the phrases of each code that are not styles.
    """

    mode: str = "clean"
    lists: list[tuple[str, ...]] = field(default_factory=list)
    phrases: list[tuple[str, ...]] = field(default_factory=list)
    _codes: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = field(default_factory=dict)

    def value(self, value: object) -> int:
        """Code of a JSON value: comma-separated text, a list of texts, or null."""
        if isinstance(value, list):
            return self.listed([str(part) for part in value]) if value else failed("no_value")
        return self.code(value if value is None else str(value))

    def code(self, text: str | None) -> int:
        """Code of comma-separated styles; that of `no_value` for null."""
        return failed("no_value") if text is None else self.listed(text.split(","))

    def listed(self, parts: list[str]) -> int:
        """Code of a list of styles. Clean: style keys or `other` ([] is `other`); official: unchanged."""
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
        """list<string>[n], null where missing."""
        table = pa.array([list(keys) for keys in self.lists], pa.list_(pa.string()))
        return table.take(pa.array(codes, mask=codes < 0))

    def unknown(self, codes: np.ndarray) -> dict[str, int]:
        """Number of rows of each phrase that is not a style (`""`: no phrase), most frequent first."""
        counts = np.bincount(codes[codes >= 0], minlength=len(self.lists))
        total: dict[str, int] = {}
        for count, phrases in zip(counts.tolist(), self.phrases, strict=True):
            for phrase in phrases if count else ():
                total[phrase] = total.get(phrase, 0) + count
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def style_column(column: pa.ChunkedArray, styles: StyleTexts) -> np.ndarray:
    """Style codes int32[n] of comma-separated texts or lists of texts; null and [] are `no_value`.

    Raises ScoreError for other types.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count == len(column):
        return np.full(len(column), failed("no_value"), np.int32)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return codes_by_text(column.cast(kind).combine_chunks(), styles.code, {})
    if not ((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type)):
        raise ScoreError(
            f"column 'styles' is {column.type}; it must hold lists of texts, or comma-separated texts"
        )
    # Each list becomes one text, so that each distinct list is parsed only once.
    joined = pc.binary_join(column.combine_chunks(), _SEPARATOR)
    if joined.null_count > column.null_count:
        raise ScoreError("column 'styles' has lists that hold null; remove the nulls")
    return codes_by_text(
        joined, lambda text: styles.listed(text.split(_SEPARATOR)) if text else failed("no_value"), {}
    )


def check_bad(counts: Mapping[str, int], lines: int, max_bad_fraction: float, where: str) -> None:
    """Raises ScoreError, with the counts, if more than `max_bad_fraction` of the lines are unusable (BAD)."""
    bad = {reason: counts[reason] for reason in BAD if counts.get(reason)}
    if sum(bad.values()) > max_bad_fraction * lines:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in bad.items())
        raise ScoreError(
            f"{where}: {sum(bad.values()):,} of {lines:,} lines cannot be used ({listed}), more than "
            f"{max_bad_fraction:.1%}; repair the file, or raise --max-bad-fraction"
        )


def check_styles(unknown: Mapping[str, int], codes: np.ndarray | None, where: str) -> None:
    """Raises ScoreError if every row with a style has an unknown one: the file uses other names."""
    if codes is None or not unknown or max(unknown.values()) < (codes >= 0).sum():
        return
    phrase = next(iter(unknown))
    near = nearest_style(phrase)
    raise ScoreError(
        f"{where}: every row has the unknown style {phrase!r}{f' (did you mean {near!r}?)' if near else ''}; "
        f"it must be one of {', '.join(STYLES)}"
    )


def nearest_style(phrase: str) -> str | None:
    """The style whose name is closest to a phrase; None if none is similar."""
    near = nearest(squash(phrase), _STYLE_KEYS)
    return _STYLE_KEYS[near] if near else None
