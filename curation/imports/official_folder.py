"""Read the score folder of the released mmSSR code (arXiv 2503.13383) into one signal.

The folder has one JSONL file per capability and one for the styles; a line has `idx` (the sample's id) and
`text` (the model's output). The base name of a file names its content: a key or a phrase of
`curation.taxonomy`, up to case, spaces and punctuation, or an entry of a mapping.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation import atomic
from curation.imports.pool_index import table_hash
from curation.imports.score_text import (
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
    for name in (capability.key, capability.phrase)
} | dict.fromkeys(("style", "styles", "styler", "interactionstyle", "interactionstyles"), STYLES)
"""Squashed name of a file -> its content: a capability or `styles`."""
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
) -> dict[str, Any]:
    """Write the signal `out`: row, cap_<capability> (int8, null = no score) and styles (list of text).

    pool_table: row (0, 1, 2, ...) and id; also source if `pool_hash` is None, which is then that of a plain
    table.
    mapping: base name -> capability, `styles` or `ignore`. mode: how texts are read, see `score_text`;
    official scores are int16. The files are streamed one after the other: memory is bounded by the pool's ids
    and the result.

    Counts per file: lines; `broken_line` (not a JSON object with `idx` or `text`, such as a truncated last
    line), `no_idx`, `not_in_pool`, `repeated` (the id and value of an earlier line); rows of the pool without
    a value by reason (`score_text.REASONS`). Returns {"rows", "files": {name: {"column", count: ...}},
    "absent": capabilities without a file, "unknown_styles": {phrase: rows}}, which is also written to
    `out`/import.json.

    Raises OfficialFolderError for a folder without such files, a file of unknown name, or two files for one
    column; IdTypeError; DuplicateRowsError for an id with two different values; OtherPoolError if no id of a
    file is in the pool; ScoreError if more than `max_bad_fraction` of a file's lines are broken or hold no
    score, or if every style is unknown.
    """
    if not np.array_equal(pool_table["row"].to_numpy(), np.arange(len(pool_table))):
        raise OfficialFolderError("column `row` of the pool's table must count from 0 in the table's order")
    files = match_files(Path(folder), mapping or {})
    index = pa.table(
        {"at": pool_table["row"].cast(pa.int32()), "pool_id": text_ids(pool_table["id"], Path(folder))}
    )
    styles, arrays, report = StyleTexts(mode), {}, {}
    for content, path in files.items():
        is_styles = content == STYLES
        column = _fill(path, index, styles.value if is_styles else lambda value: score_code(value, mode))
        report[path.name] = {"column": _column_name(content), **_counted(column, path, max_bad_fraction)}
        arrays[content] = column.codes if is_styles else column.codes.astype(np.int16)
    unknown = styles.unknown(arrays[STYLES]) if STYLES in arrays else {}
    check_styles(unknown, arrays.get(STYLES), str(files.get(STYLES)))
    identity = {
        "producer": "official_folder",
        "pool_hash": pool_hash or table_hash(pool_table),
        "mode": mode,
        "files": {content: file_hash(path) for content, path in files.items()},
    }
    write_signal(out, identity, len(pool_table), _shards(arrays, styles, mode), shard_rows=_SHARD)
    absent = [content for content in (*CAPABILITY_KEYS, STYLES) if content not in files]
    counts = {"rows": len(pool_table), "files": report, "absent": absent, "unknown_styles": unknown}
    atomic.write_json(out / "import.json", counts)
    return counts


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


def _fill(path: Path, index: pa.Table, code: Callable[[object], int]) -> _Column:
    """Codes by row from the lines of one file; `code` converts the JSON value of `text`."""
    column = _Column(np.full(len(index), failed("no_line"), np.int32))
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
    _check_overlap(column, path, index)
    return column


def _batches(path: Path, index: pa.Table) -> Iterator[tuple[pa.Array, pa.Array, pa.Array]]:
    """Batches of (row of the pool or null, JSON type of idx, JSON of text); all null for a broken line."""
    with readable(path) as (connection, name):
        import duckdb

        connection.register("pool", index)
        query = (
            f"SELECT p.at, json_type(f.idx) AS kind, f.text AS raw FROM read_json('{name}', "
            "format='newline_delimited', ignore_errors=true, columns={idx: 'JSON', text: 'JSON'}) f "
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
        id = index["pool_id"][int(rows[other[0]])].as_py()
        raise DuplicateRowsError(f"{path}: idx {id!r} has two different values; keep one line per sample")
    column.count("repeated", len(rows) - len(first))


def _check_overlap(column: _Column, path: Path, index: pa.Table) -> None:
    if not column.counts.get("lines"):
        raise OfficialFolderError(f"{path} is empty")
    if (column.codes == failed("no_line")).all():
        raise OtherPoolError(
            f"{path}: none of its {column.counts['lines']:,} lines has an `idx` of the pool, "
            f"whose first id is {index['pool_id'][0].as_py()!r}; it belongs to another pool"
        )


def _counted(column: _Column, path: Path, max_bad_fraction: float) -> dict[str, int]:
    counts = {reason: number for reason, number in column.counts.items() if number} | reason_counts(
        column.codes
    )
    check_bad(counts, column.counts["lines"], max_bad_fraction, str(path))
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
