"""A pool without some samples of another one: the same files, images and ids, with new row numbers."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from curation.pool.assemble import repetitions, write_rows
from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.image_counts import by_value
from curation.pool.layout import POOL_SCHEMA, QUARANTINE_SCHEMA
from curation.pool.read import Pool, read_info

_ROWS = 1 << 16


def derive(
    pool: Pool,
    drop: pa.Table,
    out: Path,
    *,
    replace: Mapping[str, pa.Array] | None = None,
    note: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a pool of the samples that stay; returns its pool.json.

    `drop`: row, reason, detail of each sample to leave out, in any order; of a row that is there twice the
    first counts. `replace`: new values of columns of `pool.table`, for all of its rows. `note`: keys that are
    added to pool.json, beside `parent`: where the pool came from, with its own `parent` and with the keys of
    its pool.json that the note replaces.

    The quarantine is that of `pool` with the dropped samples. Raises PoolArgumentError as `check_out` does,
    PoolError if nothing would stay, IndexError for rows that the pool does not have.
    """
    out = Path(out)
    check_out(pool, out)
    dropped = _first_of_each(drop, len(pool))
    kept = np.ones(len(pool), bool)
    kept[dropped["row"].to_numpy()] = False
    if not kept.any():
        raise PoolError(f"all {len(pool):,} samples of {pool.folder} would be dropped; nothing is written")
    out.mkdir(parents=True, exist_ok=True)
    (out / "pool.json").unlink(missing_ok=True)
    quarantine = _quarantine(pool, dropped)
    with atomic.replacing(out / "quarantine.parquet") as temporary:
        pq.write_table(quarantine, temporary)
    with atomic.replacing(out / "images.parquet") as temporary:
        shutil.copyfile(pool.folder / "images.parquet", temporary)
    stays = _replaced(pool.table, replace or {}).filter(pa.array(kept))
    written = write_rows(out / "pool.parquet", _numbered(stays))
    info = _noted(pool, out, note or {})
    info |= {"hash": written.hash, "n": written.rows, "sources": written.sources}
    info |= {"quarantined": by_value(quarantine["reason"])}
    info["text_tokens"] = pool.info["text_tokens"] | {"total": written.text_tokens}
    info["repeated_content"] = repetitions(stays["content_hash"])
    atomic.write_json(out / "pool.json", info)
    return info


def check_out(pool: Pool, out: Path) -> None:
    """Refuse a folder that a pool without some samples of `pool` must not be written to.

    Raises PoolArgumentError if it is `pool` itself, holds a pool that was not made from it, or is no folder.
    """
    if out.resolve() == pool.folder.resolve():
        raise PoolArgumentError(f"{out} is the pool itself; choose another folder to write to")
    if out.exists() and not out.is_dir():
        raise PoolArgumentError(f"output {out} is not a folder; choose another one")
    if (out / "pool.json").exists():
        parent = read_info(out, ()).get("parent", {})
        places = {(out / parent["relative"]).resolve(), Path(parent["path"])} if parent else set()
        if pool.folder.resolve() not in places:
            raise PoolArgumentError(
                f"{out} holds another pool, not made from {pool.folder}; choose another folder"
            )


def counted(pool: Pool, drop: pa.Table) -> dict[str, dict[str, int]]:
    """What pool.json notes of the samples that a step leaves out (one row for each): by reason, by source."""
    columns = {"dropped": drop["reason"], "sources": pool.table["source"].take(drop["row"])}
    return {name: by_value(values) for name, values in columns.items()}


def location(path: Path, folder: Path) -> dict[str, Any]:
    """How a pool in `folder` names a path.

    Both ways: the relative one survives moving the pool with its data, the absolute one moving the pool
    alone.
    """
    absolute = path.resolve()
    return {"path": str(absolute), "relative": os.path.relpath(absolute, folder.resolve())}


def _replaced(table: pa.Table, replace: Mapping[str, pa.Array]) -> pa.Table:
    for name, column in replace.items():
        field = POOL_SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, column.cast(field.type))
    return table


def _noted(pool: Pool, out: Path, note: Mapping[str, Any]) -> dict[str, Any]:
    """pool.json of the pool with the note, its files and images as `out` names them, and its parent."""
    pairs = zip(pool.info["files"], pool.files, strict=True)
    files = [entry | location(path, out) for entry, path in pairs]
    before = {key: pool.info[key] for key in ("parent", *note) if key in pool.info}
    parent = {"hash": pool.hash, "n": len(pool)} | location(pool.folder, out) | before
    return pool.info | dict(note) | {"files": files, "images": location(pool.images, out), "parent": parent}


def _first_of_each(drop: pa.Table, rows: int) -> pa.Table:
    at = drop["row"].to_numpy()
    if len(at) and not 0 <= at.min() <= at.max() < rows:
        wrong = at.min() if at.min() < 0 else at.max()
        raise IndexError(f"row {wrong} of a pool with {rows} rows")
    return drop.take(pa.array(np.unique(at, return_index=True)[1]))


def _quarantine(pool: Pool, dropped: pa.Table) -> pa.Table:
    before = pq.read_table(pool.folder / "quarantine.parquet", schema=QUARANTINE_SCHEMA)
    rows = pool.table.take(dropped["row"])
    columns = {name: rows[name] for name in ("index", "source", "byte_offset", "byte_length", "file")}
    columns |= {"id": rows["original_id"], "reason": dropped["reason"], "detail": dropped["detail"]}
    added = pa.table(columns).select(QUARANTINE_SCHEMA.names).cast(QUARANTINE_SCHEMA)
    order = [("file", "ascending"), ("byte_offset", "ascending")]
    return pa.concat_tables([before, added]).sort_by(order)


def _numbered(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), _ROWS):
        part = table.slice(start, _ROWS)
        rows = pa.array(np.arange(start, start + len(part), dtype=np.int32))
        yield part.set_column(0, "row", rows).select(POOL_SCHEMA.names).cast(POOL_SCHEMA)
