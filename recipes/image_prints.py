"""Hash over the images that a LLaVA file names: a replaced image changes every result that depends on it.

Names, sizes, modification times and content hashes are cached in `store/fingerprints/`; an image is read
again only if its size, modification time or inode differs from the cached one.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from curation.pool.errors import PoolError
from curation.pool.record import BadRecord, parse_record
from curation.pool.stream import read_records

ABSENT = "absent"
"""In place of the hash of an unreadable image, whose sample the audit of the pool quarantines."""
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("size", pa.int64()),
        ("changed", pa.int64()),
        ("inode", pa.int64()),
        ("sha256", pa.string()),
    ]
)
THREADS = 8
Mark = tuple[int, int, int]
"""Size in bytes, modification time in nanoseconds, inode."""


def images_hash(source: Path, folder: Path, source_hash: str, limit: int | None, cache: Path | None) -> str:
    """sha256 over name and content of every image that the first `limit` records of `source` name.

    Image names are relative to `folder`.
    `source_hash` identifies the content of `source`; `cache` is the directory of cached hashes, None for no
    cache.
    """
    key = hashlib.sha256(f"{source}\0{folder}\0{source_hash}\0{limit}".encode()).hexdigest()[:16]
    record = cache / f"images-{key}.parquet" if cache else None
    known = _read(record)
    names = list(known) or list(dict.fromkeys(_names(source, limit)))
    with ThreadPoolExecutor(THREADS) as pool:
        hashed = pool.map(lambda name: _hashed(folder / name, known.get(name)), names)
        images = dict(zip(names, hashed, strict=True))
    if cache and record and images != known and cache.parent.is_dir():  # a dry run creates no store
        _write(record, images)
    digest = hashlib.sha256()
    for name in sorted(images):
        digest.update(f"{name}\0{images[name][1]}\n".encode())
    return digest.hexdigest()


def _names(source: Path, limit: int | None) -> Iterator[str]:
    try:
        for record in islice(read_records(source), limit):
            try:
                yield from parse_record(record.value).images
            except BadRecord:  # the pool stage quarantines it, whatever its image is
                continue
    except PoolError:  # the pool stage reports what is wrong with the file
        return


def _hashed(path: Path, known: tuple[Mark, str] | None) -> tuple[Mark, str]:
    try:
        stat = os.stat(path)
        mark = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if known and known[0] == mark:
            return known
        if not path.is_file():
            return (0, 0, 0), ABSENT
        with path.open("rb") as stream:
            return mark, hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return (0, 0, 0), ABSENT


def _read(record: Path | None) -> dict[str, tuple[Mark, str]]:
    if record is None or not record.is_file():
        return {}
    try:
        columns = pq.read_table(record, schema=SCHEMA).to_pydict()
    except (pa.ArrowException, OSError):
        return {}
    rows = zip(*(columns[name] for name in SCHEMA.names), strict=True)
    return {name: ((size, changed, inode), digest) for name, size, changed, inode, digest in rows}


def _write(record: Path, images: dict[str, tuple[Mark, str]]) -> None:
    rows = [(name, *mark, digest) for name, (mark, digest) in images.items()]
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    record.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(record) as temporary:
        pq.write_table(pa.table([list(column) for column in columns], schema=SCHEMA), temporary)
