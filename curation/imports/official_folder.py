"""Read the score folder of the released mmSSR code (arXiv 2503.13383) into one signal.

The folder has one JSONL file per capability and one for the styles; a line has `idx`, the sample's own key
of that name, and `pred_response`, the model's output (`text` is read in its place). The base name of a file
names its content: a key, a phrase or the first word of a phrase of `curation.taxonomy`, up to case, spaces
and punctuation, or an entry of a mapping.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation import atomic
from curation.imports.pool_index import table_hash
from curation.imports.score_text import (
    FAILED,
    REASONS,
    ScoreError,
    StyleTexts,
    check_bad,
    check_styles,
    codes_by_text,
    failed,
    reason_counts,
    score_array,
    score_code,
    squash,
)
from curation.imports.table_file import (
    ID_KINDS,
    JSON_LINES,
    IdTypeError,
    TableFileError,
    file_hash,
    first_line,
    first_repeated,
    readable,
    text_ids,
)
from curation.nearest import nearest
from curation.signals.core.table import (
    Advance,
    DuplicateRowsError,
    OtherPoolError,
    SignalError,
    write_signal,
)
from curation.taxonomy import CAPABILITIES, CAPABILITY_KEYS

STYLES = "styles"
IGNORE = "ignore"
_NAMES = {
    squash(name): capability.key
    for capability in CAPABILITIES
    for name in (capability.key, capability.phrase, capability.phrase.split()[0])
} | dict.fromkeys(("style", "styles", "styler", "interactionstyle", "interactionstyles"), STYLES)
"""Squashed name of a file -> its content: a capability or `styles`.

The released scripts show three names, spatial, attribute and logical, which are words of their phrases; that
the other eleven are such words too is a reading of ours.
"""
KEYS = ("idx", "id")
"""Columns of a pool that the `idx` of a line may name."""
_BATCH = 1 << 16
_SHARD = 1 << 18


class OfficialFolderError(SignalError):
    """A folder without result files as the released code writes them."""


@dataclass
class _Column:
    """The content of one file by row of the pool, as codes of `score_text`, and counts of its lines."""

    codes: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str, number: int) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + int(number)


def read_official_folder(
    folder: Path,
    pool_table: pa.Table,
    out: Path,
    *,
    pool_hash: str | None = None,
    mapping: Mapping[str, str] | None = None,
    mode: str = "clean",
    max_bad_fraction: float = 0.01,
    key: str | None = None,
) -> dict[str, Any]:
    """Write the signal `out`: row, cap_<capability> (int8, null = no score) and styles (list of text).

    pool_table: row (0, 1, 2, ...), id and idx (may be absent); also source if `pool_hash` is None, which is
    then that of a plain table.
    key: the column that the lines' `idx` is looked up in, `idx` or `id`; None: `idx` if the pool has any,
    else `id`. Rows without an `idx` then get no value (`no_line`).
    mapping: base name -> capability, `styles` or `ignore`. mode: how texts are read, see `score_text`;
    official scores are int16. The files are streamed one after the other: memory is bounded by the pool's ids
    and the result.

    Counts per file: lines; `broken_line` (not a JSON object with one of these keys, such as a truncated last
    line), `no_idx`, `not_in_pool`, `repeated` (the id and value of an earlier line); rows of the pool without
    a value by reason (`score_text.REASONS`). Returns {"rows", "key", "files": {name: {"column", count: ...}},
    "absent": capabilities without a file, "unknown_styles": {phrase: rows}}, which is also written to
    `out`/import.json.

    Raises OfficialFolderError for a folder without such files, a file of unknown name, or two files for one
    column; IdTypeError; DuplicateRowsError for an id with two different values, or an `idx` that two samples
    have; OtherPoolError if no id of a file is in the pool; ScoreError if more than `max_bad_fraction` of a
    file's lines are broken or hold no score, if a file gives no sample a value, or if every style is unknown.
    """
    if not np.array_equal(pool_table["row"].to_numpy(), np.arange(len(pool_table))):
        raise OfficialFolderError("column `row` of the pool's table must count from 0 in the table's order")
    files = match_files(Path(folder), mapping or {})
    key = _key(pool_table, key)
    index = _index(pool_table, key, Path(folder))
    styles, arrays, report = StyleTexts(mode), {}, {}
    for content, path in files.items():
        is_styles = content == STYLES
        code = styles.value if is_styles else partial(score_code, mode=mode)
        column = _fill(path, index, key, code, len(pool_table))
        report[path.name] = {"column": _column_name(content), **_counted(column, path, max_bad_fraction)}
        arrays[content] = column.codes if is_styles else column.codes.astype(np.int16)
    unknown = styles.unknown(arrays[STYLES]) if STYLES in arrays else {}
    check_styles(unknown, arrays.get(STYLES), str(files.get(STYLES)))
    identity = {
        "producer": "official_folder",
        "pool_hash": pool_hash or table_hash(pool_table),
        "mode": mode,
        "key": key,
        "files": {content: file_hash(path) for content, path in files.items()},
    }
    write_signal(out, identity, len(pool_table), _shards(arrays, styles, mode), shard_rows=_SHARD)
    absent = [content for content in (*CAPABILITY_KEYS, STYLES) if content not in files]
    counts = {"rows": len(pool_table), "key": key, "files": report}
    counts |= {"absent": absent, "unknown_styles": unknown}
    atomic.write_json(out / "import.json", counts)
    return counts


def _key(pool_table: pa.Table, key: str | None) -> str:
    """The column that names samples: the given one, else `idx` if the pool has any."""
    if key not in (None, *KEYS):
        raise OfficialFolderError(f"key must be one of {', '.join(KEYS)}, got {key!r}")
    known = "idx" in pool_table.column_names and pool_table["idx"].null_count < len(pool_table)
    if key == "idx" and not known:
        raise OfficialFolderError(
            "no sample of the pool has an `idx`; build the pool again from records with one"
        )
    return key or ("idx" if known else "id")


def _index(pool_table: pa.Table, key: str, folder: Path) -> pa.Table:
    """`pool_id` (text) and `at` (row) of the samples that have one, in the pool's order."""
    index = pa.table(
        {"at": pool_table["row"].cast(pa.int32()), "pool_id": text_ids(pool_table[key], folder, key)}
    )
    index = index.filter(index["pool_id"].is_valid())
    if repeated := first_repeated(index["pool_id"]):
        raise DuplicateRowsError(
            f"{folder}: {repeated[1]:,} samples of the pool repeat an {key}, the first is {repeated[0]!r}: "
            "lines cannot be joined by it; if they hold the samples' ids, say so with --key id"
        )
    return index


def _column_name(content: str) -> str:
    return content if content == STYLES else f"cap_{content}"


def match_files(folder: Path, mapping: Mapping[str, str]) -> dict[str, Path]:
    """Capability or `styles` -> file, capabilities in the taxonomy's order. Raises OfficialFolderError."""
    file_of: dict[str, Path] = {}
    files = sorted(path for path in folder.glob("*") if path.suffix in JSON_LINES)
    for name in mapping:
        if name not in {path.stem for path in files}:
            raise OfficialFolderError(f"{folder} holds no file {name}.jsonl to map to {mapping[name]!r}")
    for path in files:
        content = _content(path, mapping)
        if content in file_of:
            raise OfficialFolderError(
                f"{file_of[content].name} and {path.name} both hold {content!r}; "
                f"map one of them to {IGNORE!r}"
            )
        if content != IGNORE:
            file_of[content] = path
    if not set(file_of) - {STYLES}:
        raise OfficialFolderError(f"{folder} holds no JSONL file with the scores of a capability")
    return {content: file_of[content] for content in (*CAPABILITY_KEYS, STYLES) if content in file_of}


def _content(path: Path, mapping: Mapping[str, str]) -> str:
    """What a file holds: a capability, `styles` or `ignore`."""
    allowed = (*CAPABILITY_KEYS, STYLES, IGNORE)
    if path.stem in mapping:
        if mapping[path.stem] not in allowed:
            raise OfficialFolderError(
                f"{path.stem} is mapped to {mapping[path.stem]!r}; it must be one of {', '.join(allowed)}"
            )
        return mapping[path.stem]
    content = _NAMES.get(squash(path.stem))
    if content is None:
        near = nearest(squash(path.stem), _NAMES)
        hint = _NAMES[near] if near else "KEY"
        raise OfficialFolderError(
            f"{path.name} is not the name of a capability{f' (did you mean {hint!r}?)' if near else ''}; "
            f"name its content with --map {path.stem}={hint}; it must be one of {', '.join(allowed)}"
        )
    return content


def _fill(path: Path, index: pa.Table, key: str, code: Callable[[object], int], total: int) -> _Column:
    """Codes by row from the lines of one file; `code` converts the JSON value of a line's text.

    `total`: rows of the pool, of which `index` holds those that have a `key`.
    """
    column = _Column(np.full(total, failed("no_line"), np.int32))
    known: dict[str | None, int] = {}
    for at, kinds, raw in _batches(path, index):
        unusable = set(kinds.unique().to_pylist()) - {None, "NULL", *ID_KINDS}
        if unusable:
            raise IdTypeError(
                f"{path}: `idx` of the JSON type {', '.join(sorted(unusable))}; "
                "ids must be texts or whole numbers"
            )
        no_idx, no_text = kinds.is_null().to_numpy(False), raw.is_null().to_numpy(False)
        rows = at.fill_null(-1).to_numpy()
        column.count("lines", len(rows))
        column.count("broken_line", (no_idx & no_text).sum())
        column.count("no_idx", (no_idx & ~no_text).sum())
        column.count("not_in_pool", (~no_idx & (rows < 0)).sum())
        inside = np.flatnonzero(rows >= 0)
        codes = codes_by_text(raw, lambda text: code(None if text is None else json.loads(text)), known)
        _place(column, rows[inside], codes[inside], index, path)
    _check_overlap(column, path, index, key)
    return column


def _batches(path: Path, index: pa.Table) -> Iterator[tuple[pa.Array, pa.Array, pa.Array]]:
    """Batches of (row of the pool or null, JSON type of idx, JSON of text); all null for a broken line."""
    with readable(path) as (connection, name):
        import duckdb

        connection.register("pool", index)
        query = (
            "SELECT p.at, json_type(f.idx) AS kind, coalesce(f.pred_response, f.text) AS raw "
            f"FROM read_json('{name}', format='newline_delimited', ignore_errors=true, "
            "columns={idx: 'JSON', pred_response: 'JSON', text: 'JSON'}) f "
            "LEFT JOIN pool p ON p.pool_id = trim(f.idx->>'$')"
        )
        try:
            for batch in connection.sql(query).to_arrow_reader(_BATCH):
                yield batch["at"], batch["kind"], batch["raw"]
        except duckdb.Error as error:
            raise TableFileError(f"{path} cannot be read as JSON Lines: {first_line(error, path)}") from error


def _place(column: _Column, rows: np.ndarray, codes: np.ndarray, index: pa.Table, path: Path) -> None:
    """Write codes to rows. A repeated row must have the same code."""
    fresh = np.flatnonzero(column.codes[rows] == failed("no_line"))
    first = fresh[np.unique(rows[fresh], return_index=True)[1]]
    column.codes[rows[first]] = codes[first]
    other = np.flatnonzero(column.codes[rows] != codes)
    if len(other):
        at = index["at"].index(pa.scalar(rows[other[0]], pa.int32())).as_py()
        id = index["pool_id"][at].as_py()
        raise DuplicateRowsError(f"{path}: idx {id!r} has two different values; keep one line per sample")
    column.count("repeated", len(rows) - len(first))


def _check_overlap(column: _Column, path: Path, index: pa.Table, key: str) -> None:
    if not column.counts.get("lines"):
        raise OfficialFolderError(f"{path} is empty")
    if (column.codes == failed("no_line")).all():
        raise OtherPoolError(
            f"{path}: none of its {column.counts['lines']:,} lines has an `idx` of the pool, "
            f"whose first {key} is {index['pool_id'][0].as_py()!r}; it belongs to another pool"
            + ", or its `idx` holds the samples' ids (--key id)"
            * (key == "idx")
        )


def _counted(column: _Column, path: Path, max_bad_fraction: float) -> dict[str, int]:
    counts = {reason: number for reason, number in column.counts.items() if number} | reason_counts(
        column.codes
    )
    check_bad(counts, column.counts["lines"], max_bad_fraction, str(path))
    if (column.codes < FAILED + len(REASONS)).all():
        why = ", ".join(f"{reason} {number:,}" for reason, number in counts.items() if reason in REASONS)
        raise ScoreError(
            f"{path}: none of its {counts['lines']:,} lines gives a sample a value ({why}); a line must have "
            "the keys `idx` and `pred_response` (or `text`)"
        )
    return counts


def _shards(
    arrays: dict[str, np.ndarray], styles: StyleTexts, mode: str
) -> Callable[[range, Advance], pa.Table]:
    def compute(rows: range, advance: Advance) -> pa.Table:
        part = slice(rows.start, rows.stop)
        columns = {"row": pa.array(np.arange(rows.start, rows.stop), pa.int32())}
        for content, codes in arrays.items():
            values = styles.array(codes[part]) if content == STYLES else score_array(codes[part], mode)
            columns[_column_name(content)] = values
        advance(len(rows))
        return pa.table(columns)

    return compute
