"""The score folder of the released mmSSR code (arXiv 2503.13383): 15 JSONL files, read into one signal.

One file for each capability and one for the styles; each line has `idx` (the sample's id) and `text` (what the model
said). The base name of a file says what it holds: a key or a phrase of `curation.taxonomy`, in any spelling that differs
by case, spaces and punctuation only, or whatever a mapping says.
"""

import difflib
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
_NAMES = {squash(name): c.key for c in CAPABILITIES for name in (c.key, c.phrase)} | dict.fromkeys(
    ("style", "styles", "styler", "interactionstyle", "interactionstyles"), STYLES
)
_BATCH = 1 << 16
_SHARD = 1 << 18


class OfficialFolderError(SignalError):
    """A folder that is not one of result files as the released code writes them."""


@dataclass
class _Column:
    """What one file says about each row of the pool, as codes of `score_text`; counts of its lines."""

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
    """Write the signal `out` with row, cap_<key> (int8, null = no score) and styles (list<string>), by row of the pool.

    pool_table: row (0, 1, 2, ...), id, and source where `pool_hash` is left out, which is then that of a plain table.
    mapping: base name -> capability key, `styles` or `ignore`. mode: how texts are read, see `score_text`; official
    scores are int16. The files are streamed one after the other, so that memory is bounded by the pool's ids and the
    result.

    Counted, by file: lines; `broken_line` (no JSON object with `idx` or `text`: a torn last line), `no_idx`,
    `not_in_pool`, `repeated` (an earlier line's id with the same value); why rows of the pool have no value
    (`score_text.REASONS`). Returns {"rows", "files": {name: {"column", count: ...}}, "absent": capabilities without a
    file, "unknown_styles": {phrase: rows}}; the same is in `out`/import.json.

    Raises OfficialFolderError for a folder without such files, a file of unknown name, two files for one column;
    IdTypeError; DuplicateRowsError for an id with two different values; OtherPoolError where no id of a file is in the
    pool; ScoreError where more than `max_bad_fraction` of a file's lines are broken or give no score, or no style is known.
    """
    if not np.array_equal(pool_table["row"].to_numpy(), np.arange(len(pool_table))):
        raise OfficialFolderError("the rows of the pool's table do not count from 0 in its order")
    files = match_files(Path(folder), mapping or {})
    index = pa.table(
        {"at": pool_table["row"].cast(pa.int32()), "pool_id": text_ids(pool_table["id"], Path(folder))}
    )
    styles, arrays, report = StyleTexts(mode), {}, {}
    for key, path in files.items():
        column = _fill(path, index, styles.value if key == STYLES else lambda value: score_code(value, mode))
        report[path.name] = {
            "column": key if key == STYLES else f"cap_{key}",
            **_counted(column, path, max_bad_fraction),
        }
        arrays[key] = column.codes if key == STYLES else column.codes.astype(np.int16)
    unknown = styles.unknown(arrays[STYLES]) if STYLES in arrays else {}
    check_styles(unknown, arrays.get(STYLES), str(files.get(STYLES)))
    identity = {
        "producer": "official_folder",
        "pool_hash": pool_hash or table_hash(pool_table),
        "mode": mode,
        "files": {key: file_hash(path) for key, path in files.items()},
    }
    write_signal(out, identity, len(pool_table), _shards(arrays, styles, mode), shard_rows=_SHARD)
    absent = [key for key in (*CAPABILITY_KEYS, STYLES) if key not in files]
    counts = {"rows": len(pool_table), "files": report, "absent": absent, "unknown_styles": unknown}
    atomic.write_json(out / "import.json", counts)
    return counts


def match_files(folder: Path, mapping: Mapping[str, str]) -> dict[str, Path]:
    """Capability key or `styles` -> file, capabilities in the taxonomy's order. Raises OfficialFolderError."""
    found: dict[str, Path] = {}
    files = sorted(path for path in folder.glob("*") if path.suffix in JSON_LINES)
    for name in mapping:
        if name not in {path.stem for path in files}:
            raise OfficialFolderError(f"{folder} holds no file {name}.jsonl to map to {mapping[name]!r}")
    for path in files:
        key = _key(path, mapping)
        if key in found:
            raise OfficialFolderError(
                f"{found[key].name} and {path.name} both hold {key!r}; map one of them to {IGNORE!r}"
            )
        if key != IGNORE:
            found[key] = path
    if not set(found) - {STYLES}:
        raise OfficialFolderError(f"{folder} holds no JSONL file with the scores of a capability")
    return {key: found[key] for key in (*CAPABILITY_KEYS, STYLES) if key in found}


def _key(path: Path, mapping: Mapping[str, str]) -> str:
    allowed = (*CAPABILITY_KEYS, STYLES, IGNORE)
    if path.stem in mapping:
        if mapping[path.stem] not in allowed:
            raise OfficialFolderError(
                f"{path.stem} is mapped to {mapping[path.stem]!r}, which is none of {', '.join(allowed)}"
            )
        return mapping[path.stem]
    key = _NAMES.get(squash(path.stem))
    if key is None:
        near = difflib.get_close_matches(squash(path.stem), _NAMES, n=1)
        hint = _NAMES[near[0]] if near else "KEY"
        raise OfficialFolderError(
            f"{path.name} names no capability{f' (did you mean {hint!r}?)' if near else ''}; "
            f"say what it holds with --map {path.stem}={hint}, one of {', '.join(allowed)}"
        )
    return key


def _fill(path: Path, index: pa.Table, code: Callable[[object], int]) -> _Column:
    """Codes by row from the lines of one file; `code` reads the value of `text`."""
    column = _Column(np.full(len(index), failed("no_line"), np.int32))
    known: dict[str | None, int] = {}
    for at, kinds, raw in _batches(path, index):
        unusable = set(kinds.unique().to_pylist()) - {None, "NULL", *ID_KINDS}
        if unusable:
            raise IdTypeError(
                f"{path}: `idx` of the JSON type {', '.join(sorted(unusable))}, but ids are texts or whole numbers"
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
    _check_found(column, path, index)
    return column


def _batches(path: Path, index: pa.Table) -> Iterator[tuple[pa.Array, pa.Array, pa.Array]]:
    """(row of the pool or null, JSON type of idx, JSON of text) by batches; a line that is no JSON gives nulls."""
    with readable(path) as (connection, name):
        import duckdb

        connection.register("pool", index)
        query = (
            "SELECT p.at, json_type(f.idx) AS kind, f.text AS raw FROM read_json("
            f"'{name}', format='newline_delimited', ignore_errors=true, columns={{idx: 'JSON', text: 'JSON'}}) f "
            "LEFT JOIN pool p ON p.pool_id = trim(f.idx->>'$')"
        )
        try:
            for batch in connection.sql(query).to_arrow_reader(_BATCH):
                yield batch["at"], batch["kind"], batch["raw"]
        except duckdb.Error as error:
            raise TableFileError(f"{path} cannot be read as JSON Lines: {first_line(error, path)}") from error


def _place(column: _Column, rows: np.ndarray, codes: np.ndarray, index: pa.Table, path: Path) -> None:
    """Put codes at rows. A row that comes again must bring the same code."""
    fresh = np.flatnonzero(column.codes[rows] == failed("no_line"))
    first = fresh[np.unique(rows[fresh], return_index=True)[1]]
    column.codes[rows[first]] = codes[first]
    other = np.flatnonzero(column.codes[rows] != codes)
    if len(other):
        name = index["pool_id"][int(rows[other[0]])].as_py()
        raise DuplicateRowsError(
            f"{path}: idx {name!r} comes with two different values; keep one line for each sample"
        )
    column.count("repeated", len(rows) - len(first))


def _check_found(column: _Column, path: Path, index: pa.Table) -> None:
    if not column.counts.get("lines"):
        raise OfficialFolderError(f"{path} is empty")
    if (column.codes == failed("no_line")).all():
        raise OtherPoolError(
            f"{path}: none of its {column.counts['lines']:,} lines has an `idx` of the pool, "
            f"whose first id is {index['pool_id'][0].as_py()!r}: it belongs to another pool"
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
        for key, codes in arrays.items():
            name = key if key == STYLES else f"cap_{key}"
            columns[name] = styles.array(codes[part]) if key == STYLES else score_array(codes[part], mode)
        advance(len(rows))
        return pa.table(columns)

    return compute
