"""Parquet with the images in it, {bytes, path}, as LLaVA-OneVision-Data has them.

A folder with `data/train-*.parquet`, which `datasets.load_dataset(FOLDER)` reads and the Hub shows; or, for a
path that ends in .parquet, one file.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation.export import columns
from curation.export.job import Job


def write(job: Job, out: Path) -> dict[str, int]:
    """Write the shards into the folder `out`, or all into one file if it is no folder."""
    schema = columns.schema(job, embed=job.embed)
    tables = columns.tables(job, schema, embed=job.embed)
    if not out.is_dir():
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        return {}
    (out / "data").mkdir()
    shards: list[Path] = []
    writer, size = None, 0
    try:
        for table in tables:
            if writer is None or size + table.nbytes > job.shard_bytes:
                if writer is not None:
                    writer.close()
                shards.append(out / "data" / f"{len(shards)}.part")
                writer, size = pq.ParquetWriter(shards[-1], schema, compression="zstd"), 0
            writer.write_table(table)
            size += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    if not shards:
        shards = [out / "data" / "0.part"]
        pq.write_table(pa.Table.from_pylist([], schema), shards[0])
    for number, shard in enumerate(shards):  # the number of shards is part of their names
        shard.rename(out / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    return {"shards": len(shards)}
