"""The table that joins an exported record with the pool, with its source file and with the selection."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.pool.read import Pool

_POOL_COLUMNS = ("original_id", "file", "index")
_OWN = ("row", "id", *_POOL_COLUMNS, "rank")


def rows_table(pool: Pool, subset: pa.Table) -> pa.Table:
    """One line for each exported record, in the order of the export.

    row, id: of the pool. original_id: as the record has it (null without). file, index: the source file,
    below the folder that all of the pool's have in common, and the record's place in it, from 0. rank: its
    place in the export, from 0. Then the reason columns of the selection; one with the name of another column
    gets the prefix `reason_`.
    """
    rows = subset["row"].to_numpy()
    chosen = pool.table.select(["row", "id", *_POOL_COLUMNS]).take(rows)
    # No folders of this machine: the table is uploaded too. The names tell the files of one pool apart.
    top = os.path.commonpath([path.resolve().parent for path in pool.files])
    names = pa.array([os.path.relpath(path.resolve(), top) for path in pool.files], pa.string())
    file = pa.DictionaryArray.from_arrays(chosen["file"].combine_chunks().cast(pa.int32()), names)
    table = chosen.set_column(chosen.column_names.index("file"), "file", file)
    table = table.append_column("rank", pa.array(np.arange(len(rows), dtype=np.int32)))
    for name in subset.column_names:
        if name not in ("row", "id", "rank"):
            table = table.append_column(f"reason_{name}" if name in _OWN else name, subset[name])
    return table


def write(pool: Pool, subset: pa.Table, out: Path) -> None:
    """Write `rows_table` as Parquet."""
    pq.write_table(rows_table(pool, subset), out, compression="zstd")
