"""ms-swift: JSON Lines (or a list) of messages and images, as its custom data sets are.

Image paths are absolute, since ms-swift resolves others from the working directory (or ROOT_IMAGE_DIR).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from curation.export.errors import ExportError
from curation.export.job import Job, messages, with_extras
from curation.export.json_file import write_records

_TYPED_BYTES = 10 << 20


def write(job: Job, out: Path) -> dict[str, int]:
    """Write the file; every record has the key `images`, empty for text alone."""
    write_records(out, _lines(job) if job.lines else _records(job), lines=job.lines)
    return {}


def _records(job: Job) -> Iterator[dict[str, Any]]:
    for sample in job.samples():
        yield with_extras(sample, {"messages": messages(sample), "images": job.pictures.paths(sample)})


def _lines(job: Job) -> Iterator[dict[str, Any]]:
    """The same. Raises ExportError where `datasets`, by which ms-swift reads, takes a wrong type for images.

    It takes the types from the first 10 MB; if these hold text alone, `images` is a list of nothing to it.
    """
    size, images = 0, False
    for record in _records(job):
        if record["images"] and not images and size >= _TYPED_BYTES:
            raise ExportError(
                "the first samples of the subset, over 10 MB, are text alone; ms-swift cannot load images "
                "after them from JSON Lines: give --out a name that ends in .json, which it reads as a whole"
            )
        images = images or bool(record["images"])
        size += 0 if images else len(msgspec.json.encode(record)) + 1
        yield record
