"""LLaVA's JSON list, or JSON Lines: each record byte for byte as in the source file.

A record in another form (messages, query and response, images under another key) is no LLaVA record as it
stands; it is written in LLaVA's form, and counted. In JSON Lines a line break between two tokens of a record
becomes a space.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from curation.atomic import replacing
from curation.export.guard import check_place
from curation.export.job import Job
from curation.export.pictures import Pictures
from curation.export.records import Located, records, sample
from curation.pool import dialects
from curation.pool.read import Pool
from curation.pool.stream import decode

_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def export_llava(pool: Pool, rows: Iterable[int], out: Path, *, lines: bool = False) -> int:
    """Write the records of `rows`, in that order, to the file `out`; returns their number.

    The bytes of each record are those of the source file, so an id that ingestion replaced is the original
    one again. The file appears complete or not at all. Raises IndexError for a row that the pool does not
    have, ExportError if `out` would replace a part of the pool, or a record is not that of the pool.
    """
    chosen = np.fromiter(rows, np.int64)
    check_place(pool, None, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        write(Job(pool, chosen, Pictures(pool), lines=lines), temporary)
    return len(chosen)


def write(job: Job, out: Path) -> dict[str, int]:
    """Write the file; returns how many records were converted, by name of the count."""
    counts: Counter[str] = Counter()
    opening, separator, closing = (b"", b"\n", b"\n") if job.lines else (b"[\n", b",\n", b"\n]\n")
    with out.open("wb", buffering=1 << 20) as file:
        file.write(opening)
        for record in records(job.pool, job.rows, job.on_progress):
            data = record.data
            if not _is_llava(job.pool, data):
                data = _converted(job.pool, record)
                counts["converted from another form"] += 1
            if job.lines:
                data = data.translate(_BREAKS)
            file.write(data if record.rank == 0 else separator + data)
            if job.pictures.copies is not None:
                job.pictures.copy(sample(job.pool, record))
        file.write(closing if len(job.rows) or not job.lines else b"")
    return dict(counts)


def _is_llava(pool: Pool, data: bytes) -> bool:
    """Whether a LLaVA reader finds the record's images and conversation where it looks for them."""
    key = pool.options.image_key
    value, _ = decode(data)
    if key is None and dialects.is_plain(value):
        return True
    form, _ = dialects.canonical(value, key)
    return form["conversations"] == value.get("conversations") and dialects.picture_paths(
        form["image"], "image"
    ) == dialects.picture_paths(value.get("image"), "image")


def _converted(pool: Pool, record: Located) -> bytes:
    value, _ = decode(record.data)
    form, _ = dialects.canonical(value, pool.options.image_key)
    images = dialects.picture_paths(form.pop("image"), "image")
    if images:
        form["image"] = images[0] if len(images) == 1 else images
    return json.dumps(form | {"source": sample(pool, record).source}, ensure_ascii=False).encode()
