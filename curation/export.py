"""Write chosen samples as a LLaVA JSON list, each record byte for byte as it came.

python -m curation.export SUBSET --pool POOL --out chosen.json
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from curation.pool.read import Pool
from curation.subset import read_manifest, read_subset


def export_llava(pool: Pool, rows: Iterable[int], out: Path) -> int:
    """Write the records of `rows`, in that order, as one JSON list; returns how many.

    The bytes of each record are those of the source file, so an id that ingestion replaced is still the original one.
    The file appears whole or not at all. Raises IndexError for a row that the pool does not have.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    count = 0
    with temporary.open("wb") as file:
        file.write(b"[")
        for count, row in enumerate(rows, start=1):
            file.write((b"\n" if count == 1 else b",\n") + pool.raw(int(row)))
        file.write(b"\n]\n")
    os.replace(temporary, out)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a subset directory; exit status 2 if it was not chosen from that pool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subset", type=Path, help="directory with subset.parquet and manifest.json")
    parser.add_argument("--pool", type=Path, required=True, help="pool directory that it was chosen from")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args(arguments)
    pool = Pool.open(given.pool)
    if read_manifest(given.subset)["pool_hash"] != pool.hash:
        parser.error(f"{given.subset} was not chosen from {given.pool}: the pool hashes differ")
    count = export_llava(pool, read_subset(given.subset)["row"].to_pylist(), given.out)
    print(f"{count} samples -> {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
