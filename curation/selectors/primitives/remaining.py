"""Greedy picks that penalise the nearest rows which are still to be picked (Self-Filter)."""

import heapq

import numpy as np

from curation.selectors.primitives.cosine import Lookup, cosines
from curation.selectors.primitives.graph import compared, highest

DEPTH = 4
"""Neighbours that are listed ahead, as a multiple of those penalised: a pick skips the ones picked since."""
WHOLE, BLOCK = 2048, 512
"""A group of at most WHOLE rows is listed at once, of a larger one the BLOCK rows that may be picked next."""


def penalise_remaining(
    scores: np.ndarray,
    rows: np.ndarray,
    units: Lookup,
    codes: np.ndarray,
    budget: int,
    k: int,
    gamma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(places int64[budget], their score when picked float64[budget]): repeatedly the highest score.

    A pick of positive score lowers the scores of the k rows of its own group that are nearest to it among
    those not yet picked, by gamma · its score · cosine^2. `scores` float64[n], `rows` and `codes` int64[n]
    (groups from 0) in the order by which equal scores and cosines are broken, budget <= n. A larger budget
    starts with the picks of a smaller one. Raises SizeError for a group of more than graph.ROW_LIMIT rows.
    """
    scores = scores.copy()
    lists = _Lists(rows, units, codes, DEPTH * k)
    heap = [(-score, place) for place, score in enumerate(scores.tolist())]
    heapq.heapify(heap)
    taken = np.zeros(len(scores), bool)
    picks: list[int] = []
    values: list[float] = []
    while len(picks) < budget:
        value, pick = heapq.heappop(heap)
        if taken[pick] or -value != scores[pick]:
            continue  # an outdated entry: a penalty has lowered the score since
        taken[pick] = True
        picks.append(pick)
        values.append(-value)
        if value >= 0 or not gamma:
            continue
        for to, cosine in zip(*lists.nearest(pick, k, taken, scores), strict=True):
            scores[to] += gamma * value * cosine * cosine  # the heap holds minus the score
            heapq.heappush(heap, (-float(scores[to]), to))
    return np.array(picks, np.int64), np.array(values)


class _Lists:
    """The nearest rows of those that are picked, made when the first of a block of rows is picked.

    Only rows that are picked need a list: with a small budget, few of all.
    """

    def __init__(self, rows: np.ndarray, units: Lookup, codes: np.ndarray, depth: int) -> None:
        self.rows, self.units, self.codes = rows, units, codes
        self.members = compared(codes)
        # int32 and float32 hold places and multiples of 2^-18 without loss, in half the memory
        self.places = np.full((len(rows), depth), -1, np.int32)
        self.cosine = np.zeros((len(rows), depth), np.float32)
        self.listed = np.zeros(len(rows), bool)
        self._held: tuple[int, np.ndarray] = -1, np.empty((0, 0))

    def nearest(
        self, pick: int, k: int, taken: np.ndarray, scores: np.ndarray
    ) -> tuple[list[int], list[float]]:
        """(places, cosines) of the k nearest rows of the group of `pick` that are left, nearest first."""
        if not self.listed[pick]:
            self._list(self._next(pick, taken, scores), taken)
        free = self._free(pick, taken)
        if len(free) < k and self.places[pick, -1] >= 0:  # a full list, which may leave out what is near
            self._list(np.array([pick]), taken)
            free = self._free(pick, taken)
        free = free[:k]
        return self.places[pick, free].tolist(), self.cosine[pick, free].tolist()

    def _free(self, pick: int, taken: np.ndarray) -> np.ndarray:
        found = self.places[pick]
        return np.flatnonzero((found >= 0) & ~taken[found])

    def _next(self, pick: int, taken: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`pick`, and the rows of its group that may be picked soon."""
        members = self.members[self.codes[pick]]
        others = members[~taken[members] & ~self.listed[members]]
        if len(members) > WHOLE:
            others = others[np.argsort(-scores[others], kind="stable")[: BLOCK - 1]]
        return np.append(others, pick)

    def _list(self, wanted: np.ndarray, taken: np.ndarray) -> None:
        """Make the lists of the rows at `wanted`, all of one group, of the rows that are not taken."""
        code = int(self.codes[wanted[0]])
        members = self.members[code]
        if self._held[0] != code:
            self._held = code, self.units(self.rows[members])
        width = min(self.places.shape[1], len(members))
        for start in range(0, len(wanted), BLOCK):
            part = wanted[start : start + BLOCK]
            own = np.searchsorted(members, part)
            cosine = cosines(self._held[1][own], self._held[1])
            cosine[:, taken[members]] = -np.inf
            cosine[np.arange(len(part)), own] = -np.inf
            places, values = highest(cosine, width)
            there = np.isfinite(values)
            self.places[part, :width] = np.where(there, members[places], -1)
            self.cosine[part, :width] = np.where(there, values, 0.0)
        self.listed[wanted] = True
