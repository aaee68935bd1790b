"""Hash over the images that files of records name: a replaced image changes every result that depends on it.

Names, sizes, modification times and content hashes are cached in `store/fingerprints/`; an image is read
again only if its size, modification time or inode differs from the cached one.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from curation.pool.errors import PoolError
from curation.pool.inputs.kinds import kind_of
from curation.pool.inputs.text import write_plain
from curation.pool.record import BadRecord, RecordOptions, parse_record
from curation.pool.stream import Located, read_records

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


def images_hash(
    files: Sequence[Path],
    folder: Path,
    content: str,
    limit: int | None,
    image_key: str | None,
    cache: Path | None,
) -> str:
    """sha256 over name and content of every image that the first `limit` records of `files` name.

    Image names are relative to `folder`, and under `image_key` in a record (None: `image` or an alias).
    `content` identifies the content of the files; `cache` is the directory of cached hashes, None for no
    cache.
    """
    about = "\0".join(map(str, (*files, folder, content, limit, image_key)))
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    record = cache / f"images-{key}.parquet" if cache else None
    known = _read(record)
    names = list(known) or list(dict.fromkeys(_names(files, limit, image_key)))
    with ThreadPoolExecutor(THREADS) as pool:
        hashed = pool.map(lambda name: _hashed(folder / name, known.get(name)), names)
        images = dict(zip(names, hashed, strict=True))
    if cache and record and images != known and cache.parent.is_dir():  # a dry run creates no store
        _write(record, images)
    digest = hashlib.sha256()
    for name in sorted(images):
        digest.update(f"{name}\0{images[name][1]}\n".encode())
    return digest.hexdigest()


def _names(files: Sequence[Path], limit: int | None, image_key: str | None) -> Iterator[str]:
    options = RecordOptions(image_key=image_key)
    for record in islice(chain.from_iterable(map(_records, files)), limit):
        try:
            yield from parse_record(record.value, options).images
        except BadRecord:  # the pool stage quarantines it, whatever its image is
            continue


def _records(file: Path) -> Iterator[Located]:
    """The records of a file as far as it can be read: the pool stage reports what is wrong with it."""
    try:
        kind, codec = kind_of(file)
        encoding = kind.partition(":")[2] or None
        if codec is None and encoding is None:
            yield from read_records(file)
            return
        with TemporaryDirectory() as folder:
            plain = Path(folder) / "records"
            write_plain(file, codec, encoding, plain)
            yield from read_records(plain)
    except PoolError:
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
