"""Graph of nearest neighbours by cosine, and messages along its edges."""

from dataclasses import dataclass

import numpy as np

from curation.selectors.contract import SizeError
from curation.selectors.primitives.cosine import STEP, Lookup, cosines

ROW_LIMIT = 100_000
"""Most rows compared with one another; at 512 dimensions about 6 minutes on one core."""
_BLOCK = 512


@dataclass(frozen=True)
class Graph:
    """`neighbours` int64[n, k], nearest first, -1 where a row has fewer; `cosine` float64[n, k] (0 there)."""

    neighbours: np.ndarray
    cosine: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """float64[n, k]: Euclidean distance of the unit vectors, sqrt(2 - 2 cos)."""
        return np.sqrt(2.0 - 2.0 * self.cosine)


@dataclass(frozen=True)
class Edges:
    """Edges of a graph of n rows: those of row i are at starts[i] to starts[i + 1].

    starts: int64[n + 1]; to: int64[m], the rows they lead to; distance: float64[m].
    """

    starts: np.ndarray
    to: np.ndarray
    distance: np.ndarray

    def by_row(self, values: np.ndarray) -> list[np.ndarray]:
        """`values` [m], cut into those of each row."""
        return np.split(values, self.starts[1:-1])

    def gather(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """float64[n]: sum over the edges of a row of weight [m] times the score [n] they lead to."""
        rows = len(self.starts) - 1
        source = np.repeat(np.arange(rows), np.diff(self.starts))
        return np.bincount(source, weights=weights * scores[self.to], minlength=rows)  # adds one by one

    def both_ways(self) -> "Edges":
        """The edges and their reverses, each once; those of a row by ascending row."""
        rows = len(self.starts) - 1
        source = np.repeat(np.arange(rows), np.diff(self.starts))
        ends = np.concatenate([source * rows + self.to, self.to * rows + source])
        ends, first = np.unique(ends, return_index=True)
        distance = np.tile(self.distance, 2)[first]
        return Edges(np.searchsorted(ends, np.arange(rows + 1) * rows), ends % max(rows, 1), distance)


def edges_of(neighbours: np.ndarray, distance: np.ndarray) -> Edges:
    """The edges to `neighbours` int64[n, k] (-1: none) of lengths `distance` float64[n, k]."""
    there = neighbours >= 0
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
    return Edges(starts, neighbours[there], distance[there])


def nearest(rows: np.ndarray, units: Lookup, k: int, codes: np.ndarray | None = None) -> Graph:
    """Graph over `rows` int64[n]: the k nearest others of each row, of its own group in `codes` if given.

    Exact brute force in blocks; equal cosines go to the earlier row. codes: int64[n]. Raises SizeError where
    more than ROW_LIMIT rows would be compared with one another.
    """
    n = len(rows)
    neighbours, cosine = np.full((n, k), -1, np.int64), np.zeros((n, k))
    for members in compared(np.zeros(n, np.int64) if codes is None else codes):
        width = min(k, len(members) - 1)
        if width:
            places, cosines_of = _inside(units(rows[members]), width)
            neighbours[members, :width], cosine[members, :width] = members[places], cosines_of
    return Graph(neighbours, cosine)


def compared(codes: np.ndarray) -> list[np.ndarray]:
    """`members_of`, for groups whose rows are all compared. Raises SizeError for more than ROW_LIMIT rows."""
    groups = members_of(codes)
    most = max(map(len, groups), default=0)
    if most > ROW_LIMIT:
        raise SizeError(
            most,
            ROW_LIMIT,
            "rows compared with one another",
            "compare inside clusters only (`within`: a column cluster_<name>), or use more clusters",
        )
    return groups


def members_of(codes: np.ndarray) -> list[np.ndarray]:
    """The places int64[] of each non-empty group of `codes` int64[n], by code; places ascend."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []


def _inside(units: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64[n, k], cosines float64[n, k]) of the k nearest other unit vectors, nearest first."""
    n = len(units)
    places, nearest_cosines = np.empty((n, k), np.int64), np.empty((n, k))
    for start in range(0, n, _BLOCK):
        cosine = cosines(units[start : start + _BLOCK], units)
        own = np.arange(len(cosine))
        cosine[own, start + own] = -np.inf
        part = slice(start, start + _BLOCK)
        places[part], nearest_cosines[part] = highest(cosine, k)
    return places, nearest_cosines


def highest(cosine: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64[m, k], cosines float64[m, k]) of the k highest of each row of `cosine` [m, n], k <= n.

    Highest first, of equals the earlier place. Entries are multiples of STEP, or -inf: those come last.
    """
    n = cosine.shape[1]
    # (cosine, earlier place first) as one whole number below 2^52, so that the partial sort meets no ties
    keys = cosine * (2.0**32 / STEP)
    keys += np.arange(n - 1, -1, -1, dtype=np.float64)
    top = np.argpartition(keys, n - k, axis=1)[:, n - k :]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1), axis=1)
    return top, np.take_along_axis(cosine, top, axis=1)
