"""The nearest neighbours of each row among those whose cosine is high: a search that sorts few pairs.

A product in single precision finds the pairs that may be near enough; only their cosines are then computed as
those of `cosine.py` are, bitwise equal on every machine. Where vectors are spread, this takes a fraction of
the time of `graph.nearest`, which ranks all pairs.
"""

import numpy as np

from curation.selectors.primitives.cosine import STEP, Lookup
from curation.selectors.primitives.graph import Graph, compared

_BLOCK = 512
_PRODUCTS = 1 << 23
"""Products held at once: 64 MB in double precision."""


def nearest_above(
    rows: np.ndarray, units: Lookup, k: int, least: float, codes: np.ndarray | None = None
) -> Graph:
    """As `graph.nearest`, but of the k nearest others only those with a cosine of at least `least`.

    rows: int64[n]; codes: int64[n], rows of one group are compared. Raises SizeError where more than
    graph.ROW_LIMIT rows would be compared with one another.
    """
    n = len(rows)
    neighbours, cosine = np.full((n, k), -1, np.int64), np.zeros((n, k))
    for members in compared(np.zeros(n, np.int64) if codes is None else codes):
        # multiples of 2^-24 up to 1 are exact in single precision
        own = units(rows[members]).astype(np.float32)
        for start in range(0, len(members), _BLOCK):
            at, to, values = _pairs(own, start, k, least)
            place = _place_among(at, to, values)
            first = place < k
            at, to, values, place = at[first], to[first], values[first], place[first]
            neighbours[members[at], place] = members[to]
            cosine[members[at], place] = values
    return Graph(neighbours, cosine)


def _pairs(own: np.ndarray, start: int, k: int, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(at int64[m], to int64[m], cosine float64[m]): the near pairs of one block of rows with all rows.

    At least the k nearest of each row that are near enough.
    """
    block = own[start : start + _BLOCK]
    rough = block @ own.T
    # the error of a sum of d products in single precision, for vectors of length 1
    margin = own.shape[1] * 2.0**-23 + STEP
    rough[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
    near = rough >= least - margin
    for place in np.flatnonzero(np.count_nonzero(near, axis=1) > 64 * k):
        # among very many near ones only those that may be of the k nearest
        kth = np.partition(rough[place], len(own) - k)[len(own) - k]
        near[place] &= rough[place] >= kth - 2 * margin
    at, to = np.nonzero(near)
    values = np.empty(len(at))
    step = max(_PRODUCTS // own.shape[1], 1)
    for first in range(0, len(at), step):
        part = slice(first, first + step)
        values[part] = (block[at[part]].astype(np.float64) * own[to[part]]).sum(axis=1)
    values = np.clip(np.rint(values / STEP) * STEP, -1.0, 1.0)
    enough = values >= least
    return at[enough] + start, to[enough], values[enough]


def _place_among(at: np.ndarray, to: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64[m]: the place of each pair among those of its row, nearest first, equal cosines by `to`."""
    order = np.lexsort((to, -values, at))
    ranked = at[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    place = np.empty(len(at), np.int64)
    place[order] = np.arange(len(at)) - np.repeat(starts, np.diff(np.append(starts, len(at))))
    return place
