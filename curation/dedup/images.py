"""What the audit of a pool found out about its pictures, as numbers that tell equal and near ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.dedup import hamming
from curation.dedup.pictures import is_flat
from curation.pool.errors import PoolArgumentError
from curation.pool.image_counts import by_value

if TYPE_CHECKING:
    from curation.pool.read import Pool

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """The m images of a pool and the places of each sample's among them.

    content: int64[m], equal for files of equal bytes. family: int64[m], equal for pictures that a chain of
    near perceptual hashes connects. hashes: uint64[m]. pixels: int64[m]. offsets: int64[n + 1], places:
    int64: the images of row r are `places[offsets[r] : offsets[r + 1]]`.
    """

    content: Numbers
    family: Numbers
    hashes: NDArray[np.uint64]
    pixels: Numbers
    offsets: Numbers
    places: Numbers

    def of(self, rows: Numbers) -> Numbers:
        """int64[k, m]: the images of rows that have m each."""
        count = int(self.offsets[rows[0] + 1] - self.offsets[rows[0]])
        return self.places[self.offsets[rows][:, None] + np.arange(count)]

    def key(self, values: Numbers) -> NDArray[np.uint64]:
        """uint64[n]: equal for rows whose images have equal `values` int64[m] in the same order."""
        lengths = np.diff(self.offsets)
        keys = mixed(lengths.astype(np.uint64))
        for at in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > at)
            own = values[self.places[self.offsets[longer] + at]].astype(np.uint64)
            keys[longer] = mixed(keys[longer] ^ mixed(own))
        return keys

    def sums(self, values: Numbers) -> Numbers:
        """int64[n]: the sum of `values` int64[m] over the images of each row."""
        totals = np.append(0, np.cumsum(values[self.places]))
        return totals[self.offsets[1:]] - totals[self.offsets[:-1]]


def read_images(pool: "Pool", radius: int | None) -> Images:
    """The images of a pool that was audited in full. `radius`: of near hashes; None: only equal files count.

    Raises PoolArgumentError for a pool whose images were not decoded.
    """
    table, column = pool.image_table, pool.table["image_ids"].combine_chunks()
    places = column.flatten().to_numpy().astype(np.int64)
    offsets = np.append(0, np.cumsum(pc.list_value_length(column).to_numpy())).astype(np.int64)
    _check_hashed(pool, places)
    content = table["bytes_hash"].combine_chunks().dictionary_encode().indices.fill_null(-1)
    content = content.to_numpy(zero_copy_only=False).astype(np.int64)
    hashes = table["phash"].fill_null(0).to_numpy()
    width, height = (table[name].fill_null(0).to_numpy().astype(np.int64) for name in ("width", "height"))
    family = content if radius is None else _families(content, hashes, radius)
    return Images(content, family, hashes, width * height, offsets, places)


def _check_hashed(pool: "Pool", places: Numbers) -> None:
    used = pool.image_table.select(["bytes_hash", "reason"]).take(np.unique(places))
    unknown = used.filter(pc.is_null(used["bytes_hash"]))
    if not len(unknown):
        return
    bad = by_value(unknown["reason"].drop_null())
    if sum(bad.values()) < len(unknown):
        raise PoolArgumentError(
            f"{len(unknown):,} images of {pool.folder} have no hashes, because they were checked by their "
            f"headers alone: run python -m curation.pool audit {pool.folder}"
        )
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in bad.items())
    raise PoolArgumentError(
        f"{len(unknown):,} images of {pool.folder} cannot be used ({reasons}): make a pool without their "
        f"samples with python -m curation.pool audit {pool.folder} --drop OUT"
    )


def _families(content: Numbers, hashes: NDArray[np.uint64], radius: int) -> Numbers:
    """Pictures without structure are near to nothing: all of them have about the same hash."""
    family = content + len(hashes)
    structured = np.flatnonzero(~is_flat(hashes))
    values, inverse = np.unique(hashes[structured], return_inverse=True)
    family[structured] = hamming.components(values, radius)[inverse]
    return family


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea, Flood 2014) of each value; unsigned overflow wraps."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
