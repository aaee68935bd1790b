"""Greedy picks that penalise the nearest rows which are still to be picked (Self-Filter)."""

import heapq

import numpy as np

from curation.selectors.primitives.cosine import Lookup, cosines
from curation.selectors.primitives.graph import Graph, nearest

DEPTH = 4
"""Neighbours that are found ahead, as a multiple of those penalised: a pick skips the ones already picked."""


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
    those not yet picked, by gamma · its score · cosine^2. `scores` float64[n], `rows` and `codes` int64[n] in
    the order by which equal scores and cosines are broken, budget <= n. A larger budget starts with the picks
    of a smaller one. Raises SizeError for a group of more than graph.ROW_LIMIT rows.
    """
    scores = scores.copy()
    graph = nearest(rows, units, DEPTH * k, codes)
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
        for to, cosine in zip(*_nearest_left(pick, k, graph, taken, rows, units, codes), strict=True):
            scores[to] += gamma * value * cosine * cosine  # the heap holds minus the score
            heapq.heappush(heap, (-float(scores[to]), to))
    return np.array(picks, np.int64), np.array(values)


def _nearest_left(
    pick: int, k: int, graph: Graph, taken: np.ndarray, rows: np.ndarray, units: Lookup, codes: np.ndarray
) -> tuple[list[int], list[float]]:
    """(places, cosines) of the k nearest rows of the group of `pick` that are not taken, nearest first."""
    found = graph.neighbours[pick]
    free = (found >= 0) & ~taken[found]
    if free.sum() >= k or (found < 0).any():  # enough, or the list holds the whole group
        at = np.flatnonzero(free)[:k]
        return found[at].tolist(), graph.cosine[pick, at].tolist()
    others = np.flatnonzero((codes == codes[pick]) & ~taken)
    cosine = cosines(units(rows[[pick]]), units(rows[others]))[0]
    at = np.argsort(-cosine, kind="stable")[:k]
    return others[at].tolist(), cosine[at].tolist()
