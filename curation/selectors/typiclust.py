"""TypiClust: clusters in turn, the largest first; from each the row whose neighbours are nearest.

Source: Hacohen et al. (arXiv 2202.02794) and the released code: as many clusters as the budget, at most 500;
clusters of 5 rows or fewer are left out; typicality is the inverse of the mean squared distance to the 20
nearest rows of the cluster that are still there, or to half of them where there are fewer. Needs:
cluster_typiclust, embedding_dino. Cost class: C1. Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    SelectorError,
    SizeError,
    numbers,
)
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept
from curation.selectors.primitives.cosine import cosines, joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.signal_columns import columns_read, names_of

LARGEST = 30_000
"""Most rows of a cluster: their cosines with one another then take 3.6 GB."""
_BLOCK = 1024


def reads(
    vectors: str | Sequence[str] = "emb_dino", cluster: str = "typiclust", **_: object
) -> tuple[str, ...]:
    """The vectors and their clusters."""
    return columns_read(*names_of(vectors), f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    vectors: str | Sequence[str] = "emb_dino",
    cluster: str = "typiclust",
    neighbours: int = 20,
    smallest: int = 6,
    text_only: str | None = None,
) -> Selection:
    """One row of each cluster of cluster_<cluster> in turn, larger clusters first, then by number.

    A cluster of m rows left gives the one with the highest mean cosine to its min(`neighbours`, m // 2)
    nearest among them (for unit vectors the order of the published typicality); ties by the hash of (seed,
    id). Where a cluster has none left, the turn goes on (the released code stops). Rows in clusters of fewer
    than `smallest` rows (`out_of_range`), without vector or cluster (`missing_value`) cannot be picked.
    Text-only rows: None (treated like all others), "exclude" or "keep" (their share at random). The number of
    clusters is that of the signal. Reason: cluster, turn, typicality (that mean cosine). Raises ColumnError,
    BudgetError, SizeError, SelectorError.
    """
    if neighbours < 1 or smallest < 1:
        raise SelectorError(
            f"neighbours and smallest must be at least 1, got neighbours={neighbours}, smallest={smallest}"
        )
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{cluster}")
    known &= np.isfinite(clusters)
    small = known & _in_small(clusters, known, smallest)
    candidates = find_candidates(columns, budget, seed, known & ~small, outside=small, text_only=text_only)
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    groups = sorted(members_of(codes), key=len, reverse=True)
    counts = _turns(np.array([len(members) for members in groups], np.int64), candidates.budget)
    places, turns, means = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for members, count in zip(groups, counts.tolist(), strict=True):
        if count:
            picked, mean = most_typical(units(candidates.rows[members]), count, neighbours)
            places.append(members[picked])
            turns.append(np.arange(count))
            means.append(mean)
    turn = np.concatenate(turns)
    order = np.argsort(turn, kind="stable")  # the clusters stand in their order already
    picks = np.concatenate(places)[order]
    return candidates.selection(
        columns,
        picks,
        cluster=clusters[candidates.rows[picks]].astype(np.int64),
        turn=turn[order].astype(np.int32),
        typicality=np.concatenate(means)[order],
    )


def _in_small(clusters: np.ndarray, known: np.ndarray, smallest: int) -> np.ndarray:
    """bool[n]: whether the cluster of a row has fewer than `smallest` known rows."""
    values, codes = np.unique(np.where(known, clusters, -1), return_inverse=True)
    return np.asarray(np.bincount(codes, weights=known, minlength=len(values))[codes] < smallest)


def _turns(sizes: np.ndarray, budget: int) -> np.ndarray:
    """int64[k]: rows of each cluster when all give one in turn, in this order, until `budget` are taken."""
    counts = np.zeros(len(sizes), np.int64)
    while (left := budget - int(counts.sum())) > 0:
        live = np.flatnonzero(sizes > counts)
        rounds = min(left // len(live), int((sizes - counts)[live].min()))
        if rounds:
            counts[live] += rounds
        else:
            counts[live[:left]] += 1
    return counts


def most_typical(units: np.ndarray, count: int, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """(places int64[count] in `units` [n, d], their mean cosine float64[count]); see `select`.

    Raises SizeError for more than LARGEST rows.
    """
    n = len(units)
    if n > LARGEST:
        raise SizeError(n, LARGEST, "rows of one cluster compared with one another", "use more clusters")
    # rounded to a step that float32 holds exactly; a row that is picked leaves at minus infinity
    cosine = np.empty((n, n), np.float32)
    for start in range(0, n, _BLOCK):
        cosine[start : start + _BLOCK] = cosines(units[start : start + _BLOCK], units)
    np.fill_diagonal(cosine, -np.inf)
    alive, total, edge = np.ones(n, bool), np.zeros(n), np.full(n, -np.inf)
    places, means, last = np.empty(count, np.int64), np.empty(count), -1
    changed = np.arange(n)
    for at in range(count):
        k = min(neighbours, (n - at) // 2)
        if k != last:
            changed, last = np.flatnonzero(alive), k
        for start in range(0, len(changed) if k else 0, _BLOCK):
            rows = changed[start : start + _BLOCK]
            nearest = np.partition(cosine[rows], n - k, axis=1)[:, n - k :]
            total[rows], edge[rows] = nearest.sum(axis=1, dtype=np.float64), nearest[:, 0]
        pick = int(np.argmax(np.where(alive, total, -np.inf))) if k else int(np.argmax(alive))
        places[at], means[at] = pick, total[pick] / k if k else 0.0
        alive[pick] = False
        changed = np.flatnonzero(alive & (cosine[pick] >= edge))
        cosine[:, pick] = -np.inf
    return places, means


PUBLISHED = Published(
    rule="a cluster in turn, largest first; of it the row with the least mean distance to 20 nearest there",
    source="arXiv 2202.02794, released code read; at most 500 clusters",
)
SELECTOR = Selector(select, reads=reads, cost="C1", nested=nested_unless_kept, published=PUBLISHED)
