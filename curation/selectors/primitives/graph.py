"""Graph of nearest neighbours by cosine, and message passing on it."""

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


def nearest(rows: np.ndarray, units: Lookup, k: int, codes: np.ndarray | None = None) -> Graph:
    """Graph over `rows` int64[n]: the k nearest others of each row, of its own group in `codes` if given.

    Exact brute force in blocks; equal cosines go to the earlier row. codes: int64[n]. Raises SizeError where
    more than ROW_LIMIT rows would be compared with one another.
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
                "compare inside clusters only (`within`: a column cluster_<name>), or use more clusters",
            )
        width = min(k, len(members) - 1)
        if width:
            places, cosines_of = _inside(units(rows[members]), width)
            neighbours[members, :width], cosine[members, :width] = members[places], cosines_of
    return Graph(neighbours, cosine)


def members_of(codes: np.ndarray) -> list[np.ndarray]:
    """The places int64[] of each non-empty group of `codes` int64[n], by code; places ascend."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []


def _inside(units: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64[n, k], cosines float64[n, k]) of the k nearest other unit vectors, nearest first."""
    n = len(units)
    places, nearest_cosines = np.empty((n, k), np.int64), np.empty((n, k))
    backwards = np.arange(n - 1, -1, -1, dtype=np.float64)
    for start in range(0, n, _BLOCK):
        cosine = cosines(units[start : start + _BLOCK], units)
        own = np.arange(len(cosine))
        # (cosine, earlier row first) as one whole number below 2^52, so that the partial sort meets no ties
        keys = cosine * (2.0**32 / STEP)
        keys += backwards
        keys[own, start + own] = -np.inf
        top = np.argpartition(keys, n - k, axis=1)[:, n - k :]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1), axis=1)
        places[start : start + _BLOCK] = top
        nearest_cosines[start : start + _BLOCK] = np.take_along_axis(cosine, top, axis=1)
    return places, nearest_cosines


def gather(scores: np.ndarray, graph: Graph, weights: np.ndarray) -> np.ndarray:
    """float64[n]: sum over the neighbours j of row i of weights[i, place of j] · scores[j]; 0 without any."""
    total = np.zeros(len(scores))
    for place in range(
        graph.neighbours.shape[1]
    ):  # one by one: the order of the additions decides the last bits
        to = graph.neighbours[:, place]
        total += np.where(to >= 0, weights[:, place] * scores[to], 0.0)
    return total
