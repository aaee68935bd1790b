"""Image files of an export: the paths that its records name, verified bytes, copies and hard links."""

import errno
import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from curation.atomic import replacing
from curation.export.errors import ExportError
from curation.pool.read import Pool
from curation.pool.sample import Sample

_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
_SUFFIXES |= {b"II*\0": "tif", b"MM\0*": "tif"}


@dataclass(frozen=True)
class Copies:
    """`folder`: where copies (or hard links) of the images lie while the export is written.

    shown: what paths in records begin with: the folder's final place, or empty for "as the pool names it".
    """

    folder: Path
    shown: str
    link: bool = False


@dataclass
class Pictures:
    """How an export refers to the pool's images. `root`: paths are relative to it; None: absolute.

    copied: names of the images that were copied so far.
    """

    pool: Pool
    root: Path | None = None
    copies: Copies | None = None
    copied: set[str] = field(default_factory=set)

    def paths(self, sample: Sample) -> list[str]:
        """The path of every image of the sample, as its record is to name it; makes the copies.

        Raises ExportError for an image that is not below the root, or not the one that was audited.
        """
        if self.copies is None:
            return [self._shown(Path(path)) for path in sample.images]
        names = self.copy(sample)
        return [os.path.join(self.copies.shown, name) for name in names]

    def copy(self, sample: Sample) -> list[str]:
        """Copy the sample's images; returns their names below the folder of the copies."""
        assert self.copies is not None
        names = [self._name(Path(path), sample.row) for path in sample.images]
        for number, (name, path) in enumerate(zip(names, sample.images, strict=True)):
            if name not in self.copied:
                target = self.copies.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if self.copies.link:
                    _link(Path(path), target)
                else:
                    _write(self._verified(sample, number), target)
                self.copied.add(name)
        return names

    def read(self, sample: Sample) -> list[tuple[str, bytes]]:
        """(path as the pool names it, bytes) of every image. Raises ExportError for one that changed."""
        return [
            (self._own_name(Path(path)), self._verified(sample, number))
            for number, path in enumerate(sample.images)
        ]

    def _name(self, path: Path, row: int) -> str:
        """The image's name below the pool's image folder. Raises ExportError if it lies elsewhere."""
        name = self._own_name(path)
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ExportError(
                f"row {row} names the image {name[:200]!r} outside the pool's image folder "
                f"{self.pool.images}: a copy of it would need another name; export without copies, or as "
                "datasets, parquet or webdataset, which hold the images themselves"
            )
        return name

    def _own_name(self, path: Path) -> str:
        text, folder = str(path), str(self.pool.images).rstrip(os.sep) + os.sep
        return text.removeprefix(folder)

    def _shown(self, path: Path) -> str:
        full = os.path.abspath(path)
        if self.root is None:
            return full
        root = os.path.abspath(self.root)
        if not full.startswith(root.rstrip(os.sep) + os.sep):
            raise ExportError(
                f"the image {full} is not below --images-root {root}; give a folder that holds all images"
            )
        return os.path.relpath(full, root)

    def _verified(self, sample: Sample, number: int) -> bytes:
        path = Path(sample.images[number])
        data = path.read_bytes()
        image = self._numbers(sample.row)[number]
        size, digest = self._sizes[image], self._digests[image].as_py()
        changed = len(data) != size or (
            digest is not None and hashlib.blake2b(data, digest_size=len(digest)).digest() != digest
        )
        if changed:
            raise ExportError(
                f"{path} (row {sample.row}) is not the image that the pool was built from; put it back, "
                "or build the pool again"
            )
        return data

    def _numbers(self, row: int) -> list[int]:
        """Rows of images.parquet for the images of a row of the pool."""
        return self._image_ids[row].as_py()

    @cached_property
    def _image_ids(self) -> pa.Array:
        return self.pool.table["image_ids"].combine_chunks()

    @cached_property
    def _sizes(self) -> list[int]:
        return self.pool.image_table["bytes"].to_pylist()

    @cached_property
    def _digests(self) -> pa.Array:
        return self.pool.image_table["bytes_hash"].combine_chunks()


def suffix(name: str, data: bytes) -> str:
    """The file suffix for an image's bytes: of its format; where the first bytes do not tell, of its name."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    own = next((ending for start, ending in _SUFFIXES.items() if data.startswith(start)), None)
    return own or re.sub(r"[^a-z0-9]", "", Path(name).suffix.lower()) or "img"


def _write(data: bytes, target: Path) -> None:
    """Write a copy; a file that has the same bytes already stays. Raises ExportError if others are there."""
    if target.is_file() and not target.is_symlink() and target.read_bytes() == data:
        return
    _check_free(target)
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def _link(path: Path, target: Path) -> None:
    """Link `target` to the file of `path`, or to the file that a link stands for."""
    real = path.resolve()
    if target.is_file() and os.path.samefile(real, target):
        return
    _check_free(target)
    try:
        os.link(real, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise ExportError(
                f"{target} cannot be a hard link to {real} ({error.strerror}); use --copy-images instead"
            ) from error
        raise


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise ExportError(f"{target} exists already and is another image; choose another folder for images")
