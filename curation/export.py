"""Write chosen samples as a LLaVA JSON list, each record byte for byte as it came."""

import os
from collections.abc import Iterable
from pathlib import Path

from curation.pool.read import Pool


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
