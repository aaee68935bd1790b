"""Images that lie inside an input, as files: under their own name where it is safe and theirs alone.

Workers `put` each image under the hash of its bytes. Which name it gets is decided when all are known, so
that it depends on the input's order alone: the first image of a name has it, other bytes of that name get
their hash.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.atomic import replacing
from curation.pool.errors import PoolError

MAX_BYTES = 1 << 30
NAMES_SCHEMA = pa.schema(
    [("line", pa.int32()), ("slot", pa.int32()), ("name", pa.string()), ("file", pa.string())]
)
"""A picture of a record: line and number in its shard, own name (null if unsafe), file in the store."""

_SUFFIX = r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif|heic|jp2|ico)"
IMAGE_NAME = re.compile(rf"[^/]*{_SUFFIX}", re.I)
"""The last part of an image's path."""
_MAGIC = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
)


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS)
"""What file systems say that have no hard links, or not so many."""


def safe_name(name: str | None) -> str | None:
    """The name if it can be a path below any folder, on any system, and ends like an image's; else None."""
    if not name or len(name) > 1000 or not name.isprintable() or set(name) & set('\\:*?"<>|'):
        return None
    *folders, last = name.split("/")
    sound = all(part and part[0] != "." and len(part.encode()) <= 200 for part in (*folders, last))
    if not sound or not IMAGE_NAME.fullmatch(last) or any(IMAGE_NAME.fullmatch(folder) for folder in folders):
        return None
    return name


def is_image(data: bytes) -> bool:
    """Whether bytes begin as an image does."""
    return suffix_of(data) != ".img"


def suffix_of(data: bytes) -> str:
    """The file suffix of image bytes; `.img` if they begin like none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:12] in (b"ftypavif", b"ftypheic"):
        return f".{data[8:12].decode()}"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".img")


class Store:
    """A folder of images by the hash of their bytes. Safe for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Keep the bytes; returns the file's name, 32 hex digits and a suffix."""
        name = hashlib.blake2b(data, digest_size=16).hexdigest() + suffix_of(data)
        path = self.path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
            temporary.write_bytes(data)
            os.replace(temporary, path)
        return name

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def decide(tables: Iterable[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """Of n pictures (`NAMES_SCHEMA`, in input order): whether each has its own name, and a file to be made.

    bool[n] each. The second is False for a picture whose file an earlier one has made already.
    """
    codes = [_codes(table) for table in tables]
    name, content = (np.concatenate([np.zeros(0, np.uint64), *part]) for part in zip(*codes, strict=True))
    _, first, group = np.unique(name, return_index=True, return_inverse=True)
    own = (name != 0) & (content == content[first[group]])
    made = np.zeros(len(name), dtype=bool)
    made[np.unique(np.where(own, name, ~content), return_index=True)[1]] = True
    return own, made


def paths_of(table: pa.Table, own: np.ndarray) -> pa.Array:
    """The path below the image folder (string[n]) of each picture of a table."""
    files = table["file"].combine_chunks()
    hashed = pc.binary_join_element_wise("by_content", pc.utf8_slice_codeunits(files, 0, 2), files, "/")
    return pc.if_else(pa.array(own), table["name"].combine_chunks(), hashed)


def _codes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """64 bits of each name (0 for none) and of each content: a tenth of the memory of the texts."""
    names, files = table["name"].to_pylist(), table["file"].to_pylist()
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() if text else b"" for text in names)
    name = map(int.from_bytes, digests)
    content = (int(text[:16], 16) for text in files)
    return np.fromiter(name, np.uint64, len(names)), np.fromiter(content, np.uint64, len(files))


def place(store: Store, images: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Link each (store file, path below `images`); what is there already from an unfinished run stays."""
    for file, name in pairs:
        target = images / name
        try:
            _link(store.path(file), target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(store.path(file), target)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except FileExistsError:
        if not os.path.samefile(file, target) and file.read_bytes() != target.read_bytes():
            raise PoolError(
                f"{target} exists with other content: this file system takes two images' names for one; "
                "choose an --out on a file system that tells upper case from lower"
            ) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with replacing(target) as temporary:
            shutil.copyfile(file, temporary)
