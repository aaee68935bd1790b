"""Graph of nearest neighbours by cosine, and messages along it."""

from dataclasses import dataclass

import numpy as np

from curation.selectors.contract import SizeError
from curation.selectors.primitives.cosine import STEP, Lookup, cosines

ROW_LIMIT = 100_000
"""Rows that are compared with one another; at 512 dimensions about 6 minutes of one core."""
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


def nearest(rows: np.ndarray, units: Lookup, k: int, codes: np.ndarray | None = None) -> Graph:
    """Graph over `rows` int64[n]: places of the k nearest others of each (of its own group `codes` int64[n], if given).

    Brute force, exact, in blocks; equal cosines go to the earlier row. Raises SizeError for more than ROW_LIMIT rows
    that would be compared with one another.
    """
    n = len(rows)
    neighbours, cosine = np.full((n, k), -1, np.int64), np.zeros((n, k))
    codes = np.zeros(n, np.int64) if codes is None else codes
    for members in members_of(codes):
        if len(members) > ROW_LIMIT:
            raise SizeError(
                len(members),
                ROW_LIMIT,
                "rows compared with one another",
                "compare inside clusters only (a column cluster_<name> as `within`), or with finer ones",
            )
        width = min(k, len(members) - 1)
        if width:
            places, found = _inside(units(rows[members]), width)
            neighbours[members, :width], cosine[members, :width] = members[places], found
    return Graph(neighbours, cosine)


def members_of(codes: np.ndarray) -> list[np.ndarray]:
    """The places int64[] of each group of `codes` int64[n] that has any, by code, ascending."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []


def _inside(units: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    n = len(units)
    places, found = np.empty((n, k), np.int64), np.empty((n, k))
    backwards = np.arange(n - 1, -1, -1, dtype=np.float64)
    for start in range(0, n, _BLOCK):
        cosine = cosines(units[start : start + _BLOCK], units)
        own = np.arange(len(cosine))
        # one whole number below 2^52 for (cosine, earlier row first), so that a partial sort has no ties to decide
        keys = cosine * (2.0**32 / STEP)
        keys += backwards
        keys[own, start + own] = -np.inf
        top = np.argpartition(keys, n - k, axis=1)[:, n - k :]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1), axis=1)
        places[start : start + _BLOCK] = top
        found[start : start + _BLOCK] = np.take_along_axis(cosine, top, axis=1)
    return places, found


def gather(scores: np.ndarray, graph: Graph, weights: np.ndarray) -> np.ndarray:
    """float64[n]: sum over the neighbours j of row i of `weights`[i, j's place] · scores[j]; 0 without neighbours."""
    total = np.zeros(len(scores))
    for place in range(graph.neighbours.shape[1]):  # one by one: the order of additions is part of the result
        to = graph.neighbours[:, place]
        total += np.where(to >= 0, weights[:, place] * scores[to], 0.0)
    return total
