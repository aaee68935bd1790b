"""Import a foreign table file as columns by row of a pool: joined, checked, cleaned and counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.imports.pool_index import Index
from curation.imports.score_text import (
    ScoreError,
    StyleTexts,
    check_bad,
    check_styles,
    reason_counts,
    score_array,
    score_column,
    style_column,
)
from curation.imports.table_file import IdTypeError, file_hash, first_repeated, read_table_file
from curation.signals.core.table import DuplicateRowsError, JoinError, OtherPoolError, identity_hash
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE


@dataclass(frozen=True)
class Reading:
    """How foreign files are read: see `score_text` and `official_folder`. Raises ScoreError."""

    mode: str = "clean"
    max_bad_fraction: float = 0.01
    key: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_fraction <= 1:
            raise ScoreError(
                f"max_bad_fraction is a share of the lines, from 0 to 1; got {self.max_bad_fraction}"
            )


@dataclass(frozen=True)
class Signal:
    """`table` has row and the signal's columns, for every row of the pool in order; `counts`: its import."""

    name: str
    table: pa.Table
    identity: str
    counts: dict[str, Any] = field(default_factory=dict)


def import_file(path: Path, index: Index, reading: Reading) -> Signal:
    """Columns of a table file, by row of the pool; a row that the file does not have is null.

    The file is joined by `id`, else by `row`; columns that the pool has too are left out (`ignored`).
    cap_<capability> becomes int8 and `styles` list<string>, parsed in `reading.mode`; NaN and
    exp_<capability> outside 0..5 become null; lists of numbers become vectors. Counts: lines, broken_line,
    no_key, not_in_pool, rows_missing, ignored, and per column the missing values by reason.

    Raises TableFileError and IdTypeError for the file; JoinError without a key or without another column;
    DuplicateRowsError; OtherPoolError if a row number is beyond the pool, or no id is in it; ScoreError.
    """
    path = Path(path)
    file = read_table_file(path, lenient=True)
    counts = {"broken_line": file.broken, "ignored": list(file.ignored)}
    return import_table(path, file.table, counts, index, reading)


def import_table(
    path: Path, table: pa.Table, counts: dict[str, Any], index: Index, reading: Reading
) -> Signal:
    """As `import_file`, for a table already read from `path`; `counts` are those of reading it."""
    counts["lines"] = len(table) + counts.get("broken_line", 0)
    check_bad(counts, counts["lines"], reading.max_bad_fraction, str(path))
    table, at = _keyed(table, path, index, counts)
    ignored = [name for name in table.column_names if name in index.table.column_names]
    counts["ignored"] = [*counts.get("ignored", []), *(name for name in ignored if name not in ("id", "row"))]
    values = table.drop_columns(ignored)
    if not values.num_columns:
        nested = [name for name in counts["ignored"] if name not in ignored]
        left_out = f"; of a kind that cannot be read: {', '.join(nested)}" if nested else ""
        raise JoinError(f"{path} has only columns of the pool ({', '.join(ignored)}){left_out}")
    place = np.full(len(index), -1, np.int64)
    place[at] = np.arange(len(at))
    counts["rows_missing"] = int((place < 0).sum())
    line_of_row = pa.array(place, mask=place < 0)
    columns = {"row": index.table["row"]}
    for name in sorted(values.column_names, key=_order):
        cleaned, reasons = _clean(values[name], name, path, reading)
        columns[name] = cleaned.take(line_of_row)
        if reasons:
            counts.setdefault("columns", {})[name] = reasons
    identity = {"sha256": file_hash(path), "mode": reading.mode}
    return Signal(
        path.name, pa.table(columns), identity_hash(identity), {key: n for key, n in counts.items() if n}
    )


def _order(name: str) -> int:
    """Sort key: capabilities in the taxonomy's order; selections must not depend on a file's column order."""
    capability = name.partition("_")[2]
    return CAPABILITY_KEYS.index(capability) if capability in CAPABILITY_KEYS else len(CAPABILITY_KEYS)


def _keyed(table: pa.Table, path: Path, index: Index, counts: dict[str, Any]) -> tuple[pa.Table, np.ndarray]:
    """The lines that belong to the pool, and their rows."""
    key = next((name for name in ("id", "row") if name in table.column_names), None)
    if key is None:
        raise JoinError(
            f"{path} has neither 'id' nor 'row' to join it with the pool; "
            f"it has {', '.join(table.column_names)}"
        )
    rows = _rows_by_id(table["id"], index) if key == "id" else _row_numbers(table["row"], path, index)
    known = rows.is_valid()
    counts["no_key"] = table[key].null_count
    counts["not_in_pool"] = rows.null_count - table[key].null_count
    table, at = table.filter(known), rows.drop_null().to_numpy()
    if not len(at):
        raise OtherPoolError(
            f"{path}: none of its ids is in the pool, whose first is {index.table['id'][0].as_py()!r}; "
            "it belongs to another pool"
        )
    repeated = first_repeated(pa.chunked_array([at]))
    if repeated:
        row, repeats = repeated
        id = index.table["id"][row].as_py()
        raise DuplicateRowsError(
            f"{path}: {repeats:,} lines repeat a sample, the first is {id!r}; keep one line per sample"
        )
    if key == "id" and "row" in table.column_names and not np.array_equal(table["row"].to_numpy(), at):
        raise OtherPoolError(
            f"{path}: `row` and `id` name different samples of {index.path}; it belongs to another pool"
        )
    return table, at


def _rows_by_id(ids: pa.ChunkedArray, index: Index) -> pa.Array:
    """Row of each id in the pool, null if the pool does not have it."""
    rows = pc.index_in(ids, value_set=index.table["id"].cast(ids.type).combine_chunks(), skip_nulls=True)
    return rows.combine_chunks()


def _row_numbers(rows: pa.ChunkedArray, path: Path, index: Index) -> pa.Array:
    # duckdb reads a JSON column with a negative number as floats.
    whole = pa.types.is_floating(rows.type) and pc.all(pc.equal(rows, pc.floor(rows))).as_py()
    if not pa.types.is_integer(rows.type) and not whole:
        raise IdTypeError(f"{path}: column 'row' is {rows.type}, but must be whole numbers")
    low, high = (pc.min_max(rows)[name].as_py() for name in ("min", "max"))
    if low is not None and not 0 <= low <= high < len(index):
        wrong = low if low < 0 else high
        raise OtherPoolError(
            f"{path} has row {wrong:,}, the pool has rows 0..{len(index) - 1:,}; it belongs to another pool"
        )
    return rows.cast(pa.int64()).combine_chunks()


def _clean(
    column: pa.ChunkedArray, name: str, path: Path, reading: Reading
) -> tuple[pa.ChunkedArray | pa.Array, dict[str, Any]]:
    """The column as a signal stores it, and counts of values that became null or `other`."""
    where = f"{path}, column {name!r}"
    if name.startswith("cap_"):
        codes = score_column(column, name, reading.mode)
        reasons = reason_counts(codes)
        check_bad(reasons, len(codes), reading.max_bad_fraction, where)
        return score_array(codes, reading.mode), reasons
    if name == "styles":
        styles = StyleTexts(reading.mode)
        codes = style_column(column, styles)
        unknown = styles.unknown(codes)
        check_styles(unknown, codes, where)
        return styles.array(codes), reason_counts(codes) | ({"unknown": unknown} if unknown else {})
    if column.null_count == len(column) and not pa.types.is_fixed_size_list(column.type):
        return pa.nulls(len(column), pa.float64()), {}  # its real type is unknown
    if name.startswith("exp_") and pa.types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)
    if pa.types.is_floating(column.type):
        return _clean_floats(column, name, where, reading)
    return _as_vectors(column), {}


def _clean_floats(
    column: pa.ChunkedArray, name: str, where: str, reading: Reading
) -> tuple[pa.ChunkedArray, dict[str, int]]:
    """NaN becomes null, and so do expected scores outside the scale."""
    nan = pc.is_nan(column).fill_null(False)
    reasons = {"nan": pc.sum(nan).as_py() or 0}
    gone = nan
    if name.startswith("exp_"):
        outside = pc.or_(pc.less(column, 0), pc.greater(column, MAX_SCORE)).fill_null(False)
        reasons["out_of_range"] = pc.sum(outside).as_py() or 0
        check_bad(reasons, len(column), reading.max_bad_fraction, where)
        gone = pc.or_(nan, outside)
    cleaned = pc.if_else(gone, pa.scalar(None, column.type), column)
    return cleaned, {reason: count for reason, count in reasons.items() if count}


def _as_vectors(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of numbers of one length as float32 vectors; any other column unchanged."""
    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return column
    # Signals store vectors as float16 of fixed size: these stay as they are.
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) != 1 or kind == pa.list_(pa.float16(), lengths[0]):
        return column
    return column.cast(pa.list_(pa.float32(), lengths[0]))
