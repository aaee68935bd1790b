"""What a selection needs of a pool: ids, sources and token counts in order, and the hash that signals are checked by.

It is read from a pool directory (neither the source file nor the images are touched), or from a plain table with `id`
and `source`, whose rows are its order.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.imports.table_file import first_repeated, read_table_file
from curation.pool.errors import PoolError

SOURCE_KEYS = ("source", "data_source", "image_source")
"""Where a table names the sources, as in `curation.pool.record`; the first that is there counts."""
COUNTS = ("n_images", "n_turns", "text_tokens", "image_tokens")
"""Columns of a plain table that mean what they mean in a pool; optional."""


@dataclass(frozen=True)
class Index:
    """`table` with row, id, source and what counts are known, in row order; `hash` of the pool.

    `extra`: row and the further columns of a plain table, which may be signals; None for a pool directory. `ignored`
    names the nested columns of a plain table. `token_unit` is what text tokens are counted in, where it is known.
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
    """Index of a pool directory, or of a Parquet, JSONL or JSON table. Raises PoolError."""
    path = Path(path)
    if path.is_dir():
        return _of_directory(path)
    if path.name == "pool.parquet" and (path.parent / "pool.json").is_file():
        return _of_directory(path.parent)
    return _of_table(path)


def _of_directory(folder: Path) -> Index:
    if not (folder / "pool.json").is_file():
        raise PoolError(f"{folder} holds no finished pool (no pool.json); run python -m curation.pool build")
    info = _info(folder / "pool.json")
    try:
        table = pq.read_table(folder / "pool.parquet")
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{folder}/pool.parquet cannot be read ({error}); build the pool again") from error
    if len(table) != info["n"]:
        raise PoolError(
            f"{folder}/pool.parquet has {len(table):,} rows, pool.json says {info['n']:,}; build the pool again"
        )
    return Index(folder, table, info["hash"], token_unit=info["text_tokens"]["unit"])


def _info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise PoolError(f"{path} is no JSON ({error}); build the pool again") from error
    if not isinstance(info, dict) or not {"n", "hash", "text_tokens"} <= info.keys():
        raise PoolError(f"{path} does not describe a pool; build the pool again")
    return info


def _of_table(path: Path) -> Index:
    read = read_table_file(path)
    given = read.table
    source = next((name for name in SOURCE_KEYS if name in given.column_names), None)
    if "id" not in given.column_names or source is None:
        raise PoolError(
            f"{path} is no pool: it needs the columns id and source, and has {', '.join(given.column_names)}"
        )
    _check_rows(given, path)
    columns = {
        "row": pa.array(np.arange(len(given)), pa.int32()),
        "id": _ids(given["id"], path),
        "source": _sources(given[source], path, source),
    } | {name: _counts(given[name], path, name) for name in COUNTS if name in given.column_names}
    table = pa.table(columns)
    others = [name for name in given.column_names if name not in columns and name != source]
    extra = pa.table({"row": columns["row"], **{name: given[name] for name in others}}) if others else None
    return Index(path, table, table_hash(table), extra, read.ignored)


def _check_rows(given: pa.Table, path: Path) -> None:
    if "row" in given.column_names and not np.array_equal(given["row"].to_numpy(), np.arange(len(given))):
        raise PoolError(
            f"{path}: the rows of a table count from 0 in its order, but its column 'row' says otherwise; leave it out"
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
        raise PoolError(f"{path}: column {name!r} is {sources.type}, not text")
    if sources.null_count:
        raise PoolError(f"{path}: {sources.null_count:,} rows have no {name}")
    return sources.cast(pa.string())


def _counts(column: pa.ChunkedArray, path: Path, name: str) -> pa.ChunkedArray:
    """Whole numbers of at least 0, null for null and NaN (as which pandas writes missing counts)."""
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
            f"{path}: column {name!r} ({column.type}) holds something else than whole numbers of at least 0, or null where unknown"
        )
    return whole


def table_hash(table: pa.Table) -> str:
    """sha256 (hex) over id and source of every row, in order: a plain table's pool hash. That of a pool directory covers the content."""
    digest = hashlib.sha256(b"table of ids and sources")
    for start in range(0, len(table), 1 << 16):
        part = table.slice(start, 1 << 16)
        for name in ("id", "source"):
            digest.update(json.dumps(part[name].to_pylist(), separators=(",", ":")).encode())
    return digest.hexdigest()
