"""A folder for `datasets.load_from_disk`, with the images in it, or with their paths.

The library itself writes the folder and takes the images' bytes into it.
"""

import tempfile
from pathlib import Path

import pyarrow as pa

from curation.export import columns
from curation.export.errors import ExportError
from curation.export.job import Job


def write(job: Job, out: Path) -> dict[str, int]:
    """Write the folder `out`, which exists and is empty. Raises ExportError without the library."""
    try:
        from datasets import Dataset, disable_progress_bars, enable_progress_bars
        from datasets.utils.tqdm import are_progress_bars_disabled
    except ImportError as error:
        raise ExportError(
            "--format datasets needs the package: pip install datasets; parquet needs none, and "
            "datasets.load_dataset reads it"
        ) from error

    schema = columns.schema(job, embed=job.embed)
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        # Beside the result, because /tmp may be small; Arrow tables from disk are not loaded into memory.
        with tempfile.TemporaryDirectory(dir=out, prefix=".arrow-") as workspace:
            path = Path(workspace) / "all.arrow"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                for table in columns.tables(job, schema, embed=job.embed):
                    stream.write_table(table)
            shards = max(1, -(-path.stat().st_size // job.shard_bytes))
            data = Dataset.from_file(str(path))
            data.save_to_disk(out, num_shards=min(shards, max(len(data), 1)))
    finally:
        if not quiet:
            enable_progress_bars()
    return {"shards": shards}
