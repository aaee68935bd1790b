"""Rows that may be copies of each other, taken apart: every member of a group is a copy of its first.

Similarity is not transitive: a chain of small changes joins samples that have nothing in common. So the rows
of a block are visited from the best down; a row that no group has taken starts one and takes what is left of
the rows that are copies *of itself*.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from curation.dedup import pictures, text
from curation.dedup.hamming import BITS, distances
from curation.pool.errors import PoolError
from curation.pool.isolated import Lost, WorkersFail, run

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.progress import Progress


IMAGES, TEXT = ("exact", "near", "alike"), ("exact", "near", "any")


@dataclass(frozen=True)
class Rule:
    """What makes two samples copies of each other, besides equal records.

    images: "exact" (equal bytes of the files); "near" (also perceptual hashes within `radius` bits and
        thumbnails that agree in a share `same` of their tiles: the file was stored again, made smaller,
        cropped a little); "alike" (also, if the words are equal, hashes within `alike` bits without a second
        look: other renderings and neighbouring frames; different pages of one layout pass too). A radius of 8
        finds 91 % of photographs without 2.5 % of each side, one of 6 77 % (tests/benchmarks/RESULTS.md).
    text: "exact" (equal words), "near" (also a Jaccard index of the shingles of at least `threshold`), or
        "any": copies of the pictures alone are copies.
    """

    images: str = "near"
    text: str = "near"
    radius: int = 8
    same: float = pictures.SAME
    threshold: float = 0.8
    alike: int = 14

    def __post_init__(self) -> None:
        for name, value, known in (("images", self.images, IMAGES), ("text", self.text, TEXT)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        for name, bits in (("radius", self.radius), ("alike", self.alike)):
            if not 0 <= bits < 32:
                raise ValueError(f"{name} must be from 0 to 31 bits, got {bits}")
        for name, share in (("same", self.same), ("threshold", self.threshold)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {share:g}")
        if (self.images, self.text) == ("alike", "any"):
            raise ValueError("pictures are taken for alike only where the words are equal: not with text any")


@dataclass(frozen=True)
class Block:
    """Samples that may be copies of each other, all different, the best first.

    rows: int64[k] in the pool. text: int64[k], equal for equal words. signature: uint8[k, SLOTS]. Of m images
    each: files: object[k, m], paths; content: int64[k, m], equal for equal bytes; hashes: uint64[k, m].
    """

    rows: np.ndarray
    text: np.ndarray
    signature: np.ndarray
    files: np.ndarray
    content: np.ndarray
    hashes: np.ndarray


def split(
    blocks: "Blocks", workers: int, on_progress: "Progress | None" = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the block, int64[k]: the place of the first of each sample's group), in any order.

    workers: processes; 0: this one. Raises PoolError where an image or a record can no longer be read.
    """
    done = 0
    for at, firsts in _results(blocks, workers):
        yield from ((at * blocks.size + n, first) for n, first in enumerate(firsts))
        done += len(firsts)
        if on_progress:
            on_progress(done, blocks.total)


def _results(blocks: "Blocks", workers: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    if workers == 0:
        for at in range(len(blocks)):
            yield at, _split_all(blocks[at])
        return
    try:
        for at, (result,) in run(_split_all, blocks, workers, chunk=1, seconds=3600.0):
            if isinstance(result, Lost):
                raise PoolError(f"the process that compared samples {result.why}; try --workers 0")
            yield at, result
    except WorkersFail as error:
        raise PoolError(f"samples cannot be compared: {error}; try --workers 0") from error


@dataclass(frozen=True)
class Task:
    """Blocks for one worker: `pool` holds their samples, one block after the other."""

    pool: "Pool"
    blocks: list[Block]
    rule: Rule


class Blocks(Sequence[Task]):
    """Blocks as tasks of `size`, made when they are asked for. `make(n)` gives block n of `count`."""

    def __init__(
        self, pool: "Pool", rule: Rule, count: int, make: Callable[[int], Block], size: int = 64
    ) -> None:
        self._pool, self._rule, self._make = pool, rule, make
        self.total, self.size = count, size

    def __len__(self) -> int:
        return -(-self.total // self.size)

    @overload
    def __getitem__(self, at: int) -> Task: ...
    @overload
    def __getitem__(self, at: slice) -> list[Task]: ...
    def __getitem__(self, at: int | slice) -> Task | list[Task]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        blocks = [self._make(n) for n in range(at * self.size, min((at + 1) * self.size, self.total))]
        rows = np.concatenate([block.rows for block in blocks])
        return Task(text.part_of(self._pool, rows), blocks, self._rule)


def _split_all(task: Task) -> list[np.ndarray]:
    firsts, start = [], 0
    for block in task.blocks:
        firsts.append(_Comparison(task.pool, start, block, task.rule).firsts())
        start += len(block.rows)
    return firsts


class _Comparison:
    """The samples of a block compared with one of them at a time."""

    def __init__(self, pool: "Pool", start: int, block: Block, rule: Rule) -> None:
        self._pool, self._start, self._block, self._rule = pool, start, block, rule
        self._shingles: dict[int, set[str]] = {}

    def firsts(self) -> np.ndarray:
        """int64[k]: the place of the first of each sample's group."""
        result = np.arange(len(self._block.rows))
        left = result.copy()
        while len(left) > 1:
            first, left = left[0], left[1:]
            copies = self._copies(int(first), left)
            result[left[copies]] = first
            left = left[~copies]
        return result

    def _copies(self, first: int, others: np.ndarray) -> np.ndarray:
        """bool: which of the others are copies of the first; the cheap checks before the dear ones."""
        block, rule = self._block, self._rule
        same_words = (block.text[others] == block.text[first]) & (rule.text != "any")
        equal = block.content[others] == block.content[first]
        distance = distances(block.hashes[others], block.hashes[first])
        flat = pictures.is_flat(block.hashes[others]) | pictures.is_flat(block.hashes[first])
        distance[flat] = BITS
        alike = equal | ((distance <= rule.alike) & (rule.images == "alike") & same_words[:, None])
        near = alike | ((distance <= rule.radius) & (rule.images != "exact"))
        copies = near.all(axis=1)
        for at in np.flatnonzero(copies & ~same_words) if rule.text != "any" else ():
            copies[at] = rule.text == "near" and self._near_words(first, int(others[at]))
        for at in np.flatnonzero(copies & ~alike.all(axis=1)):
            copies[at] = self._look_alike(first, int(others[at]), ~alike[at])
        return copies

    def _near_words(self, first: int, other: int) -> bool:
        signature, threshold = self._block.signature, self._rule.threshold
        if text.estimates(signature[first], signature[other]) < threshold - text.SLACK:
            return False
        return text.jaccard(self._taken(first), self._taken(other)) >= threshold

    def _taken(self, place: int) -> set[str]:
        number = int(self._block.text[place])
        if number not in self._shingles:
            sample = self._pool[self._start + place]
            self._shingles[number] = text.shingles(text.conversation(sample))
        return self._shingles[number]

    def _look_alike(self, first: int, other: int, which: np.ndarray) -> bool:
        files = self._block.files
        return all(
            pictures.agreement(self._thumbnail(files[first, k]), self._thumbnail(files[other, k]))
            >= self._rule.same
            for k in np.flatnonzero(which)
        )

    def _thumbnail(self, file: str) -> pictures.Thumbnail:
        try:
            return pictures.thumbnail(str(self._pool.images / file))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise PoolError(
                f"{self._pool.images / file} can no longer be decoded ({error}): run python -m curation.pool "
                f"audit {self._pool.folder}"
            ) from error
