"""ms-swift: JSON Lines (or a list) of messages and images, as its custom data sets are.

Image paths are absolute, since ms-swift resolves others from the working directory (or ROOT_IMAGE_DIR).
"""

from pathlib import Path

from curation.export.job import Job, messages, with_extras
from curation.export.json_file import write_records


def write(job: Job, out: Path) -> dict[str, int]:
    """Write the file; every record has the key `images`, empty for text alone."""
    paths = job.pictures.paths
    write_records(
        out,
        (with_extras(s, {"messages": messages(s), "images": paths(s)}) for s in job.samples()),
        lines=job.lines,
    )
    return {}
