"""Images of a pool that are images of benchmarks: the same file, the same pixels, or nearly so.

    matches = match_pictures(pool, targets.pictures, ImageRule())

The pool's stored hashes give the candidates (equal files; perceptual hashes within the radius). A candidate
that is no equal file is decoded and compared with what is stored of the benchmark's image: equal pixels are
exact, small copies that are alike enough are near. The perceptual hash alone would find every chart and every
page of text of one layout.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.decontaminate.fingerprints import fingerprint, in_order, likeness
from curation.decontaminate.join import matching
from curation.decontaminate.targets import Pictures
from curation.dedup.hamming import BITS, distinct, distinct_pairs
from curation.pool.errors import PoolError
from curation.progress import Progress

if TYPE_CHECKING:
    from curation.pool.read import Pool

EXACT, NEAR = 0, 1
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ImageRule:
    """When two images are near: perceptual hashes within `radius` bits, and small copies (32 x 32 RGB) with
    at least this Pearson `correlation` and at most this mean absolute `difference` in levels of 0..255, which
    must also be within `slack` + `factor` times that of the nearest picture: the other charts of one layout
    are not the one that is copied, the next frames of a video may be.

    The radius is wider than that of `curation.dedup.clusters.Rule` (8), since few benchmark images meet a
    pool's, a missed leak is dearer than a second look, and the small copies are one (see
    `curation.pool.phash`): tests/benchmarks/decontaminate.py measures both.
    """

    radius: int = 10
    correlation: float = 0.9
    difference: float = 40.0
    slack: float = 2.0
    factor: float = 2.0


class Matches(NamedTuple):
    """One entry for each (pool image, picture): EXACT or NEAR, bits of distance (-1: the same file), mean
    difference of the small copies. `unreadable`: candidates that could not be decoded. `images` were
    compared.
    """

    image: Numbers
    picture: Numbers
    kind: Numbers
    distance: Numbers
    difference: NDArray[np.float64]
    unreadable: int
    images: int


def match_pictures(
    pool: "Pool",
    pictures: Pictures,
    rule: ImageRule,
    *,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> Matches:
    """Every image of the pool's rows that is one of `pictures`, exactly or nearly.

    Raises PoolError if the pool has images without hashes, which only a full audit computes.
    """
    used = images_used(pool)
    sound = hashed_images(pool)
    broken = len(used) - len(sound)
    table = pool.image_table.select(["path", "bytes_hash", "phash"]).take(pa.array(sound))
    same_file = pc.index_in(table["bytes_hash"], pictures.file.drop_null())
    places = np.flatnonzero(pictures.file.is_valid().to_numpy(zero_copy_only=False))
    exact = np.flatnonzero(same_file.is_valid().to_numpy())
    by_file = [
        (int(k), int(places[at]), EXACT, -1, 0.0)
        for k, at in zip(exact, same_file.take(pa.array(exact)).to_pylist(), strict=True)
    ]
    looked = _Looked(pool, pictures, rule, table["path"])
    candidates = list(_candidates(table["phash"].to_numpy(), pictures, rule.radius))
    known = {(k, picture) for k, picture, *_ in by_file}
    found = list(by_file)
    for done, own in enumerate(in_order(candidates, looked, workers), 1):
        broken += own is None
        found += [match for match in own or () if match[:2] not in known]
        if on_progress:
            on_progress(done, len(candidates))
    columns = [np.array(column) for column in zip(*found, strict=True)] or [np.zeros(0, np.int64)] * 5
    k, picture, kind, distance, difference = columns
    return Matches(sound[k], picture, kind, distance, difference.astype(np.float64), broken, len(used))


def images_used(pool: "Pool") -> Numbers:
    """The numbers of the images that the pool's rows show, ascending."""
    return np.unique(pool.table["image_ids"].combine_chunks().flatten().to_numpy()).astype(np.int64)


def hashed_images(pool: "Pool") -> Numbers:
    """The numbers of the images that the pool's rows show and that can be compared, ascending.

    Images that the audit found broken have no hashes. Raises PoolError if others lack them too.
    """
    used = images_used(pool)
    table = pool.image_table.select(["bytes_hash", "phash", "reason"]).take(pa.array(used))
    hashed = pc.and_(pc.is_valid(table["bytes_hash"]), pc.is_valid(table["phash"])).to_numpy()
    lacking = int((~hashed & pc.is_null(table["reason"]).to_numpy()).sum())
    if lacking:
        raise PoolError(
            f"{lacking:,} of the {len(used):,} images of the pool {pool.folder} have no hashes yet: run "
            f"python -m curation.pool audit {pool.folder}, or compare the questions alone (--only questions)"
        )
    return used[hashed]


def _candidates(hashes: NDArray[np.uint64], pictures: Pictures, radius: int) -> Iterator[tuple[int, Numbers]]:
    """(place in `hashes`, pictures within the radius); pictures that show nothing are near to none."""
    own = np.flatnonzero(~pictures.flat)
    mine, theirs = distinct(hashes), distinct(pictures.phash[own])
    first, second, _ = distinct_pairs(mine.values, theirs.values, radius)
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    bounds = np.flatnonzero(np.diff(first, prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        near = [theirs.order[theirs.starts[g] : theirs.starts[g + 1]] for g in second[start:stop]]
        numbers = own[np.concatenate(near)]
        group = int(first[start])
        for place in mine.order[mine.starts[group] : mine.starts[group + 1]]:
            yield int(place), numbers


class _Looked:
    """Decodes an image of the pool and compares it with its candidates."""

    def __init__(self, pool: "Pool", pictures: Pictures, rule: ImageRule, paths: pa.ChunkedArray) -> None:
        self.root, self.pictures, self.rule, self.paths = str(pool.images), pictures, rule, paths

    def __call__(self, candidate: tuple[int, Numbers]) -> list[tuple[int, int, int, int, float]] | None:
        """(place, picture, kind, distance, difference) of those that are the image, or nearly so.

        None if the image cannot be decoded.
        """
        place, numbers = candidate
        try:
            with open(os.path.join(self.root, self.paths[place].as_py()), "rb") as file:
                own = fingerprint(file.read())
        except OSError:
            own = None
        if own is None:
            return None
        correlation, difference = likeness(own.small, self.pictures.small[numbers])
        distance = np.bitwise_count(self.pictures.phash[numbers] ^ np.uint64(own.phash))
        rule = self.rule
        alike = (
            (correlation >= rule.correlation) & (difference <= rule.difference) & (distance <= rule.radius)
        )
        alike &= difference <= rule.slack + rule.factor * difference[alike].min(initial=np.inf)
        found = []
        for at in np.flatnonzero(alike):
            picture = int(numbers[at])
            kind = EXACT if self.pictures.pixels[picture].as_py() == own.pixels else NEAR
            found.append((place, picture, kind, int(distance[at]), float(difference[at])))
        return found


def score(kind: Numbers, distance: Numbers) -> NDArray[np.float64]:
    """1 for an exact match, else the share of equal bits of the perceptual hashes."""
    return np.where(kind == EXACT, 1.0, 1 - np.maximum(distance, 0) / BITS)


def of_rows(pool: "Pool", images: Numbers) -> tuple[Numbers, Numbers]:
    """(row, index into `images`) for each of these images that a row shows."""
    ids = pool.table["image_ids"].combine_chunks()
    shown = ids.flatten().to_numpy()
    rows = pc.list_parent_indices(ids).to_numpy()
    wanted = np.zeros(int(max(shown.max(initial=-1), images.max(initial=-1))) + 1, np.bool_)
    wanted[images] = True
    held = wanted[shown]
    left, right = matching(shown[held].astype(np.int64), images)
    return rows[held][left].astype(np.int64), right
