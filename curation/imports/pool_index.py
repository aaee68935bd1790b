"""The index of a pool, which is all that a selection reads: ids, sources, token counts and the pool hash.

It is read from a pool folder (the source file and the images are not touched) or from a plain table with `id`
and `source`, whose order is the order of the rows.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.imports.table_file import first_repeated, read_table_file, text_ids
from curation.pool.errors import PoolError
from curation.pool.read import read_info, read_table

SOURCE_KEYS = ("source", "data_source", "image_source")
"""Columns that may name the source, as in `curation.pool.record`; the first that exists is used."""
COUNTS = ("n_images", "n_turns", "text_tokens", "image_tokens")
"""Optional columns of a plain table with the same meaning as in a pool."""


@dataclass(frozen=True)
class Index:
    """`table` has row, id, source, the known counts and `idx` (if any), in row order; `hash`: the pool hash.

    extra: row and the further columns of a plain table, which may be signals; None for a pool folder.
    ignored: names of the nested columns of a plain table. token_unit: unit of the text tokens, None if
    unknown.
    """

    path: Path
    table: pa.Table
    hash: str
    extra: pa.Table | None = None
    ignored: tuple[str, ...] = ()
    token_unit: str | None = None

    def __len__(self) -> int:
        return self.table.num_rows


def open_index(path: Path) -> Index:
    """Index of a pool folder, or of a Parquet, JSONL or JSON table. Raises PoolError."""
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    if path.name == "pool.parquet" and (path.parent / "pool.json").is_file():
        return _of_folder(path.parent)
    return _of_table(path)


def _of_folder(folder: Path) -> Index:
    info = read_info(folder, ("n", "hash", "text_tokens"))
    table = read_table(folder, info)
    if lacking := [name for name in ("row", "id", "source") if name not in table.column_names]:
        raise PoolError(f"{folder}/pool.parquet has no column {lacking[0]!r}; build the pool again")
    return Index(folder, table, info["hash"], token_unit=info["text_tokens"]["unit"])


def _of_table(path: Path) -> Index:
    file = read_table_file(path)
    table = file.table
    source = next((name for name in SOURCE_KEYS if name in table.column_names), None)
    if "id" not in table.column_names or source is None:
        raise PoolError(
            f"{path} is not a pool: it needs the columns id and source, but has "
            f"{', '.join(table.column_names)}"
        )
    _check_rows(table, path)
    columns = {
        "row": pa.array(np.arange(len(table)), pa.int32()),
        "id": _ids(table["id"], path),
        "source": _sources(table[source], path, source),
    } | {name: _counts(table[name], path, name) for name in COUNTS if name in table.column_names}
    if "idx" in table.column_names:
        columns["idx"] = text_ids(table["idx"], path, "idx").cast(pa.string())
    index = pa.table(columns)
    others = [name for name in table.column_names if name not in columns and name != source]
    extra = pa.table({"row": columns["row"], **{name: table[name] for name in others}}) if others else None
    return Index(path, index, table_hash(index), extra, file.ignored)


def _check_rows(table: pa.Table, path: Path) -> None:
    if "row" in table.column_names and not np.array_equal(table["row"].to_numpy(), np.arange(len(table))):
        raise PoolError(
            f"{path}: column 'row' must count from 0 in the order of the table; correct it or leave it out"
        )


def _ids(ids: pa.ChunkedArray, path: Path) -> pa.ChunkedArray:
    missing = ids.null_count + (pc.sum(pc.equal(ids, "")).as_py() or 0)
    if missing:
        raise PoolError(f"{path}: {missing:,} of {len(ids):,} rows have no id")
    repeated = first_repeated(ids)
    if repeated:
        raise PoolError(
            f"{path}: {repeated[1]:,} rows repeat an id, the first is {repeated[0]!r}; ids must be unique"
        )
    return ids.cast(pa.string())


def _sources(sources: pa.ChunkedArray, path: Path, name: str) -> pa.ChunkedArray:
    kind = sources.type.value_type if pa.types.is_dictionary(sources.type) else sources.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise PoolError(f"{path}: column {name!r} must be text, but is {sources.type}")
    if sources.null_count:
        raise PoolError(f"{path}: {sources.null_count:,} rows have no {name}")
    return sources.cast(pa.string())


def _counts(column: pa.ChunkedArray, path: Path, name: str) -> pa.ChunkedArray:
    """Whole numbers of at least 0; null for null and for NaN, as which pandas writes missing counts."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), pa.int64())])
    try:
        whole = (
            column.cast(pa.int64())
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
            else None
        )
    except pa.ArrowInvalid:  # a fraction, infinite, or beyond 2^63
        whole = None
    if whole is None or pc.min(whole).as_py() < 0:
        raise PoolError(
            f"{path}: column {name!r} ({column.type}) must hold whole numbers of at least 0, "
            "or null for unknown"
        )
    return whole


def table_hash(table: pa.Table) -> str:
    """Pool hash of a plain table: sha256 (hex) over id and source of every row, in order.

    It differs from the hash of a pool folder, which covers the samples' content too.
    """
    digest = hashlib.sha256(b"table of ids and sources")
    for start in range(0, len(table), 1 << 16):
        part = table.slice(start, 1 << 16)
        for name in ("id", "source"):
            digest.update(json.dumps(part[name].to_pylist(), separators=(",", ":")).encode())
    return digest.hexdigest()
