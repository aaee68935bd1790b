"""Greedy picks that depend on earlier picks: by a threshold on cosines, or by a penalty on neighbours."""

import heapq
from collections.abc import Sequence

import numpy as np

from curation.selectors.contract import SizeError
from curation.selectors.primitives.cosine import Lookup, cosines
from curation.selectors.primitives.graph import members_of

PAIR_LIMIT = 10_000_000_000
"""Most candidates times picks; at 512 dimensions about 10 minutes on one core."""
_BLOCK = 512
_CHUNK = 1 << 14


def greedy_similarity(
    rows: np.ndarray, units: Lookup, budget: int, threshold: float, codes: np.ndarray | None = None
) -> np.ndarray:
    """int64[<= budget]: places in `rows` int64[n], best first, whose cosine to all accepted <= `threshold`.

    With `codes` int64[n] only rows of the same group are compared. A larger budget starts with the picks of a
    smaller one. Raises SizeError where more than PAIR_LIMIT pairs may have to be compared.
    """
    members = members_of(np.zeros(len(rows), np.int64) if codes is None else codes)
    pairs = sum(len(group) * min(len(group), budget) for group in members)
    if pairs > PAIR_LIMIT:
        raise SizeError(
            pairs,
            PAIR_LIMIT,
            "pairs of candidate and pick",
            "compare inside clusters only (`within`: a column cluster_<name>), or take a smaller budget",
        )
    accepted = [group[_accepted(units, rows[group], budget, threshold)] for group in members]
    return np.sort(np.concatenate([np.empty(0, np.int64), *accepted]))[:budget]


def _accepted(units: Lookup, rows: np.ndarray, budget: int, threshold: float) -> np.ndarray:
    kept = np.empty((0, 0))
    picks: list[int] = []
    for start in range(0, len(rows), _BLOCK):
        block = units(rows[start : start + _BLOCK])
        if not start:
            kept = np.empty((min(budget, len(rows)), block.shape[1]))
        free = np.ones(len(block), bool)
        for at in range(0, len(picks), _CHUNK):
            free &= cosines(block, kept[at : min(at + _CHUNK, len(picks))]).max(axis=1) <= threshold
        left = np.flatnonzero(free)
        accepted = left[independent(cosines(block[left], block[left]), threshold)][: budget - len(picks)]
        kept[len(picks) : len(picks) + len(accepted)] = block[accepted]
        picks.extend((start + accepted).tolist())
        if len(picks) == budget:
            break
    return np.array(picks, np.int64)


def independent(cosine: np.ndarray, threshold: float) -> np.ndarray:
    """int64[]: rows of a square cosine matrix, in order, whose cosine to all kept ones is <= `threshold`."""
    free = np.ones(len(cosine), bool)
    for row in range(len(cosine)):
        if free[row]:
            free[row + 1 :] &= cosine[row, row + 1 :] <= threshold
    return np.flatnonzero(free)


def greedy_penalty(
    scores: np.ndarray,
    neighbours: np.ndarray | Sequence[np.ndarray],
    weights: np.ndarray | Sequence[np.ndarray],
    budget: int,
    *,
    signed: bool = False,
) -> np.ndarray:
    """int64[min(budget, n)]: repeatedly the highest score, which lowers those of its neighbours.

    A pick subtracts weight · its score from the score of each neighbour.
    `scores` float64[n]; `neighbours` int64[n, k], -1 = none, or n arrays of any lengths; `weights` float64
    beside them. Ties go to the earlier row. A row is picked once; a negative score subtracts nothing (it
    would raise others), or, if `signed`, does so. A larger budget starts with the picks of a smaller one.
    Cost (n + budget · k) log n.
    """
    scores = scores.copy()
    heap = [(-score, row) for row, score in enumerate(scores.tolist())]
    heapq.heapify(heap)
    taken = np.zeros(len(scores), bool)
    picks: list[int] = []
    while heap and len(picks) < budget:
        score, row = heapq.heappop(heap)
        if taken[row] or -score != scores[row]:
            continue  # an outdated entry: a penalty has changed the score since
        taken[row] = True
        picks.append(row)
        if score >= 0 and not signed:
            continue
        for to, weight in zip(neighbours[row].tolist(), weights[row].tolist(), strict=True):
            if to >= 0 and not taken[to] and weight:
                scores[to] += score * weight  # the heap holds minus the score
                heapq.heappush(heap, (-scores[to], to))
    return np.array(picks, np.int64)
