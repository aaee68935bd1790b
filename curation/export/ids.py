"""The plain list of ids, one a line, in rank order."""

from pathlib import Path

from curation.export.errors import ExportError
from curation.export.job import Job


def write(job: Job, out: Path) -> dict[str, int]:
    """Write the file. Raises ExportError for an id that holds a line break."""
    ids = job.pool.table["id"].take(job.rows).to_pylist()
    for row, name in zip(job.rows.tolist(), ids, strict=True):
        if len(name.splitlines()) > 1 or name != name.rstrip("\r\n"):
            raise ExportError(
                f"the id {name[:80]!r} of row {row} holds a line break, which a list of ids cannot; "
                "the table of rows has every id"
            )
    with out.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{name}\n" for name in ids)
    return {}
