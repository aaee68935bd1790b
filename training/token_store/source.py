"""What a token store is made from: the rows of a pool, or a list of samples and encoded examples.

A source has `hash` (of its content), `images` (the folder that image paths are relative to), a length, and
`part(start, stop)`: the examples of a row range in a form that is cheap to send to another process.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from PIL import Image

from curation.pool.read import Pool
from curation.pool.sample import Sample
from training.images import decode
from training.render import Encoded
from training.token_store.layout import DRAWN, save

Example = Sample | Encoded


class Part(Protocol):
    """The examples of a row range; can be pickled."""

    def __iter__(self) -> Iterator[Example]: ...


class Source(Protocol):
    """Where samples come from; see the module's docstring."""

    hash: str
    images: str

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int, folder: Path) -> Part:
        """The rows from `start` to `stop`; images drawn on the fly are saved in the store `folder`."""
        ...


class PoolSource:
    """All rows of a pool, in its order."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.hash, self.images = pool, pool.hash, str(pool.images)

    def __len__(self) -> int:
        return len(self.pool)

    def part(self, start: int, stop: int, folder: Path) -> "PoolPart":
        pool = self.pool
        columns = pool.table.select(["id", "source", "file", "byte_offset", "byte_length", "record_hash"])
        # A copy: a slice would be sent to another process with the buffers of the whole table.
        table = columns.take(pa.array(range(start, stop)))
        return PoolPart(Pool(pool.folder, table, pool.info, pool.files, pool.images))


@dataclass(frozen=True)
class PoolPart:
    """Rows of a pool, read from its source file where they are iterated."""

    pool: Pool

    def __iter__(self) -> Iterator[Sample]:
        return self.pool.samples()


class ListSource:
    """Samples or encoded examples in memory, or any sequence of them; PIL images are saved with the store.

    `hash` is computed from all of them, unless the caller knows one that decides their content.
    """

    def __init__(self, examples: Sequence[Example], hash: str | None = None) -> None:
        self.examples, self._hash = examples, hash

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def images(self) -> str:
        """The folder that all image files share: a moved data set is still the same."""
        pictures = (picture for example in self.examples for picture in example.images)
        folders = {os.path.dirname(os.path.abspath(p)) for p in pictures if not isinstance(p, Image.Image)}
        return os.path.commonpath(folders) if folders else ""

    @cached_property
    def hash(self) -> str:
        """sha256 over ids, conversations or tokens, and image names or pixels."""
        if self._hash:
            return self._hash
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr(_content(example)).encode("utf-8", "surrogatepass"))
            digest.update(repr([self._name(picture) for picture in example.images]).encode())
        return digest.hexdigest()

    def part(self, start: int, stop: int, folder: Path) -> list[Example]:
        return [_on_disk(self.examples[row], folder) for row in range(start, stop)]

    def _name(self, picture: Any) -> str:
        return (
            drawn_name(picture) if isinstance(picture, Image.Image) else os.path.relpath(picture, self.images)
        )


def _content(example: Example) -> tuple[Any, ...]:
    if isinstance(example, Sample):
        return (example.id, example.system, example.turns)
    arrays = example.input_ids.tobytes(), example.labels.tobytes()
    return (example.name, example.prefix, example.branches, *(hashlib.sha256(a).hexdigest() for a in arrays))


def drawn_name(image: Image.Image) -> str:
    """File name of a PIL image: hash of its mode, size and pixels."""
    head = f"{image.mode} {image.size} {image.getpalette() if image.mode == 'P' else ''}".encode()
    return hashlib.blake2b(head + image.tobytes(), digest_size=16).hexdigest() + ".png"


def _on_disk(example: Example, folder: Path) -> Example:
    """The example with absolute paths, and PNG files of their pixels in place of PIL images."""
    if not example.images:
        return example
    paths = [_saved(p, folder) if isinstance(p, Image.Image) else _absolute(p) for p in example.images]
    return replace(example, images=tuple(paths))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _saved(image: Image.Image, folder: Path) -> Path:
    """The PNG file of what a training reads of a PIL image: `decode` of both is the same."""
    path = folder / DRAWN / drawn_name(image)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(decode(image).permute(1, 2, 0).numpy()).save(png, "PNG", compress_level=1)
        save(path, png.getbuffer())
    return path
