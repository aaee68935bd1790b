"""Nearest neighbours by the distance of vectors as they are, bitwise equal on every machine.

All vectors are divided by one power of two, so that the longest has a length of at most 1, and rounded to a
grid of 2^-24. Products of entries are then multiples of 2^-48, and sums of products over two such vectors
stay near 1: squared distances |a|^2 + |b|^2 - 2 ab are exact in float64, in any order of addition.
"""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import vectors
from curation.selectors.primitives.cosine import GRID, Lookup
from curation.selectors.primitives.graph import compared

_BLOCK = 512


def on_grid(columns: pa.Table, names: Sequence[str], rows: np.ndarray) -> tuple[Lookup, float]:
    """(vectors by position, scale): times `scale`, a power of two, they are the vectors of `rows`, rounded.

    Several vector columns are joined as they are. Raises ColumnError.
    """
    parts = [vectors(columns, name)[0] for name in names]

    def joined(at: np.ndarray) -> np.ndarray:
        return np.concatenate([part[at].astype(np.float64) for part in parts], axis=1)

    longest = 0.0
    for start in range(0, len(rows), _BLOCK):
        block = joined(rows[start : start + _BLOCK])
        longest = max(longest, float(np.sqrt((block * block).sum(axis=1)).max()))
    # rounded to float32, which hides the order in which the squares are summed
    scale = math.ldexp(1.0, math.frexp(float(np.float32(longest)))[1])
    return lambda at: np.rint(joined(at) / scale * GRID) / GRID, scale


def nearest_points(
    rows: np.ndarray, points: Lookup, k: int, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours int64[n, k], squared distances float64[n, k] on the grid) over `rows` int64[n].

    The k nearest others of each row in its own group of `codes` int64[n], nearest first; of equal distances
    the earlier row. -1 where a row has fewer. Raises SizeError where a group has more than ROW_LIMIT rows.
    """
    neighbours, squared = np.full((len(rows), k), -1, np.int64), np.zeros((len(rows), k))
    for members in compared(codes):
        width = min(k, len(members) - 1)
        if width:
            places, squares = _inside(points(rows[members]), width)
            neighbours[members, :width], squared[members, :width] = members[places], squares
    return neighbours, squared


def _inside(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    n = len(points)
    places, squares = np.empty((n, k), np.int64), np.empty((n, k))
    length = (points * points).sum(axis=1)
    for start in range(0, n, _BLOCK):
        block = points[start : start + _BLOCK]
        squared = np.multiply(block @ points.T, -2.0)
        squared += length
        squared += length[start : start + _BLOCK, None]
        own = np.arange(len(block))
        squared[own, start + own] = np.inf
        top = _lowest(squared, k)
        places[start : start + _BLOCK] = top
        squares[start : start + _BLOCK] = np.take_along_axis(squared, top, axis=1)
    return places, squares


def _lowest(values: np.ndarray, k: int) -> np.ndarray:
    """int64[n, k]: places of the k lowest of each row of `values` [n, m], ascending; ties to the earlier."""
    last = np.partition(values, k - 1, axis=1)[:, k - 1 : k]
    near = values <= last
    tied = np.flatnonzero(near.sum(axis=1) > k)
    equal = values[tied] == last[tied]
    room = k - (near[tied] & ~equal).sum(axis=1, keepdims=True)
    near[tied] &= ~equal | (np.cumsum(equal, axis=1, dtype=np.int32) <= room)
    places = np.nonzero(near)[1].reshape(len(values), k)
    order = np.argsort(np.take_along_axis(values, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)
