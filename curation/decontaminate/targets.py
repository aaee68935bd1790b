"""What a pool is compared with: the items of benchmarks, their distinct images and their questions."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.decontaminate.fingerprints import SIDE, Fingerprint, file_hash, fingerprint, in_order
from curation.progress import Progress
from evaluation.items import OpenedItems


@dataclass
class Pictures:
    """The distinct images of all items, each with a number. `of_item`: (item, picture) of each use, int64[k,
    2].

    `file`, `pixels`: fixed_size_binary(16); `phash` uint64[n]; `small` uint8[n, SIDE, SIDE, 3]; `flat`
    bool[n].
    """

    file: pa.Array
    pixels: pa.Array
    phash: NDArray[np.uint64]
    small: NDArray[np.uint8]
    flat: NDArray[np.bool_]
    of_item: NDArray[np.int64]
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.phash)


@dataclass(frozen=True)
class Targets:
    """Items one after another, over all benchmarks: int32 `benchmark` (of `names`), `ids`, `units`,
    `questions`.

    `content`: digest of each benchmark's data; `missing`: benchmarks whose data could not be read, and why.
    """

    suite: str
    suite_hash: str
    names: list[str]
    benchmark: NDArray[np.int32]
    ids: list[str]
    units: list[str]
    questions: list[str]
    pictures: Pictures
    content: Mapping[str, str]
    missing: Mapping[str, str]
    opened: OpenedItems = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, item: int) -> tuple[Any, ...]:
        """The images of an item, see `evaluation.items`."""
        code = int(self.benchmark[item])
        first = int(np.searchsorted(self.benchmark, code))
        return self.opened.benchmarks[self.names[code]].images(item - first)


def read_targets(
    opened: OpenedItems, *, images: bool = True, workers: int = 1, on_progress: Progress | None = None
) -> Targets:
    """Decode every distinct image of the items once (`images`: or none). Raises what reading the mirror
    raises.
    """
    held = list(opened.benchmarks.values())
    return Targets(
        opened.suite.name,
        hashlib.sha256(opened.suite.model_dump_json().encode()).hexdigest()[:16],
        [items.name for items in held],
        np.repeat(np.arange(len(held), dtype=np.int32), [len(items) for items in held]),
        [own for items in held for own in items.ids],
        [own for items in held for own in items.units],
        [own for items in held for own in items.questions],
        _pictures(opened, workers, on_progress) if images else collect([]),
        {items.name: items.content for items in held},
        dict(opened.missing),
        opened,
    )


class Use(NamedTuple):
    """An image of an item; `made` is None for a file (`key`) that came before, or that cannot be decoded."""

    item: int
    key: bytes | None
    made: Fingerprint | None


def _pictures(opened: OpenedItems, workers: int, on_progress: Progress | None) -> Pictures:
    return collect(in_order(_uses(opened, on_progress), _fingerprinted, workers))


def _uses(opened: OpenedItems, on_progress: Progress | None) -> Iterator[tuple[int, bytes | None, Any]]:
    """(item, hash of its file, image) of every use; the image is None after the first use of its file, since
    many questions may share it."""
    known: set[bytes] = set()
    every = (images for items in opened.benchmarks.values() for images in items.all_images())
    for item, images in enumerate(every):
        for image in images:
            key = file_hash(image) if isinstance(image, bytes) else None
            yield item, key, None if key in known else image
            if key:
                known.add(key)
        if on_progress:
            on_progress(item + 1, len(opened))


def _fingerprinted(use: tuple[int, bytes | None, Any]) -> Use:
    item, key, image = use
    return Use(item, key, None if image is None else fingerprint(image))


def collect(uses: Iterable[Use]) -> Pictures:
    """The distinct pictures of uses."""
    number: dict[bytes, int] = {}
    found: list[Fingerprint] = []
    of_item: list[tuple[int, int]] = []
    unreadable = 0
    for item, key, made in uses:
        key = key or (made.pixels if made else b"")
        if made and key not in number:
            number[key] = len(found)
            found.append(made)
        if key in number:
            of_item.append((item, number[key]))
        else:
            unreadable += 1
    return Pictures(
        pa.array([own.file for own in found], pa.binary(16)),
        pa.array([own.pixels for own in found], pa.binary(16)),
        np.array([own.phash for own in found], np.uint64),
        np.stack([own.small for own in found]) if found else np.zeros((0, SIDE, SIDE, 3), np.uint8),
        np.array([own.is_flat for own in found], np.bool_),
        np.array(of_item, np.int64).reshape(-1, 2),
        unreadable,
    )
