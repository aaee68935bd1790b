"""SemDeDup: drops rows that are near to an earlier row of their cluster until exactly the budget is left.

Source: Abbas et al. (arXiv 2303.09540; the released code and COINCIDE's VLM baseline were read): k-means on
embeddings; a cluster is sorted, the row farthest from the centroid first; a row's value is its highest cosine
to any row before it, whether that one is dropped or not; values above 1 - epsilon are dropped, with epsilon
set by hand for a budget. Needs: an embedding and its clusters. Cost class: C2 (C1 with vectors of a small
encoder). Blind. 665K rows in 10,000 clusters of a few hundred rows take minutes; no pair is stored.

The variant "clean" compares with kept rows only, so that of a chain of near rows every second one stays, and
bisection finds epsilon. Its picks and the published ones have Jaccard 0.76 on the frozen table of
tests/parity.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    SizeError,
    numbers,
    one_of,
)
from curation.selectors.primitives.candidates import Candidates, find_candidates
from curation.selectors.primitives.cosine import STEP, Lookup, cosines, joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.greedy import independent
from curation.selectors.signal_columns import columns_read, names_of

PAIR_LIMIT = 500_000_000
"""Most cosines inside the clusters in the variant "clean", which keeps all in memory, 4 bytes each."""
COMPARED_LIMIT = 10_000_000_000
"""The same in the variant "published", which keeps none: at 512 dimensions about 5 minutes on one core."""
_BLOCK = 1024


def reads(
    vectors: str | Sequence[str] = "emb_last_token", cluster: str = "semdedup", **_: object
) -> tuple[str, ...]:
    """The vectors and their clusters."""
    return columns_read(*names_of(vectors), f"cluster_{cluster}")


def nested(variant: str = "published", text_only: str | None = None, **_: object) -> bool:
    """A row's published value does not depend on the budget."""
    return variant == "published" and text_only != "keep"


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    vectors: str | Sequence[str] = "emb_last_token",
    cluster: str = "semdedup",
    keep: str = "hard",
    text_only: str | None = None,
) -> Selection:
    """The rows that remain when near duplicates inside cluster_<cluster> are dropped.

    A cluster is visited in the order of `keep`: "hard" (lowest similarity_<cluster>, the cosine to the
    centroid, first), "easy" (highest first) or "random"; ties by the hash of (seed, id). `variant`
    "published": the rows with the lowest highest cosine to any row before them, never taken below 0 (as in
    the released code) and 0 for the first of a cluster, the lowest first; ties by the hash. "clean": a row is
    dropped if its cosine to a row kept before exceeds 1 - epsilon; bisection finds an epsilon that leaves at
    least the budget, while one step of 4e-6 more would leave less; of the surplus, the rows most similar to
    another kept row are dropped. `text_only`: None (default) treats text-only rows like all others, "keep"
    gives them their share of the budget at random, "exclude" leaves them out. Rows without vector or cluster
    cannot be picked (`missing_value`). Notes: `epsilon_e6`, epsilon in millionths; `trimmed`, rows that this
    epsilon leaves beyond the budget. Reason: cluster, similarity (the highest cosine to an earlier row, in
    "clean" to one kept; null for none). Raises ColumnError, BudgetError, SizeError, SelectorError.
    """
    one_of("variant", variant, ("published", "clean"))
    one_of("keep", keep, ("hard", "easy", "random"))
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{cluster}")
    known &= np.isfinite(clusters)
    similarity = np.zeros(len(columns)) if keep == "random" else numbers(columns, f"similarity_{cluster}")
    candidates = find_candidates(columns, budget, seed, known & np.isfinite(similarity), text_only=text_only)
    ranked = np.argsort(similarity[candidates.rows] * (-1 if keep == "easy" else 1), kind="stable")
    _, codes = np.unique(clusters[candidates.rows[ranked]], return_inverse=True)
    rule = _lowest if variant == "published" else _thinned
    places, highest, notes = rule(candidates, ranked, codes, units)
    picked = candidates.rows[places]
    similarities = pa.array(np.where(highest < -1, 0, highest), mask=highest < -1)
    return candidates.selection(
        columns, places, notes, cluster=clusters[picked].astype(np.int32), similarity=similarities
    )


def _lowest(
    candidates: Candidates, ranked: np.ndarray, codes: np.ndarray, units: Lookup
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """(places among the candidates, the highest cosine of each to a row before it, notes); lowest first."""
    groups = _limited(codes, COMPARED_LIMIT)
    before = np.full(len(ranked), -np.inf)
    for group in groups:
        before[ranked[group]] = highest_before(units(candidates.rows[ranked[group]]))
    value = np.maximum(before, 0.0)
    places = np.argsort(value, kind="stable")[: candidates.budget]
    cut = value[places].max(initial=0.0)
    trimmed = int((value <= cut).sum()) - len(places) if len(places) else 0
    notes = {"epsilon_e6": round((1 - cut) * 1e6), "trimmed": trimmed}
    return places, before[places], notes


def highest_before(units: np.ndarray) -> np.ndarray:
    """float64[n]: the highest cosine of each of `units` [n, d] to one before it; -inf for the first."""
    best = np.full(len(units), -np.inf)
    for start in range(0, len(units), _BLOCK):
        cosine = cosines(units[start : start + _BLOCK], units[: start + _BLOCK])
        own = start + np.arange(len(cosine))
        cosine[np.arange(cosine.shape[1]) >= own[:, None]] = -np.inf
        best[own] = cosine.max(axis=1)
    return best


def _thinned(
    candidates: Candidates, ranked: np.ndarray, codes: np.ndarray, units: Lookup
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The same for rows compared with kept ones only, in the order of `ranked`."""
    groups = _limited(codes, PAIR_LIMIT)
    near = [(group, _within(units, candidates.rows[ranked[group]])) for group in groups]
    places, highest, threshold = _thin(near, candidates.budget)
    notes = {"epsilon_e6": round((1 - threshold) * 1e6), "trimmed": len(places) - candidates.budget}
    # the surplus: the rows most similar to another kept row; among equals, those later in the order of `keep`
    left = np.sort(np.argsort(highest, kind="stable")[: candidates.budget])
    return ranked[places[left]], highest[left], notes


def _limited(codes: np.ndarray, limit: int) -> list[np.ndarray]:
    """The places of each cluster. Raises SizeError where they hold more than `limit` pairs."""
    groups = members_of(codes)
    pairs = sum(len(group) ** 2 for group in groups)
    if pairs > limit:
        raise SizeError(pairs, limit, "pairs inside clusters", "use more clusters")
    return groups


def _within(units: Lookup, rows: np.ndarray) -> np.ndarray:
    block = units(rows)
    return cosines(block, block).astype(np.float32)  # float32 holds multiples of STEP exactly


def _thin(near: list[tuple[np.ndarray, np.ndarray]], budget: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(places kept, ascending; each one's highest cosine to one kept before it, -inf for none; threshold)."""
    # in steps of STEP: the highest keeps every row, the lowest one row per cluster
    low, high = -round(1 / STEP) - 1, round(1 / STEP)
    while high - low > 1:
        middle = (low + high) // 2
        left = sum(len(independent(cosine, middle * STEP)) for _, cosine in near)
        low, high = (low, middle) if left >= budget else (middle, high)
    places, highest = [np.empty(0, np.int64)], [np.empty(0)]
    for group, cosine in near:
        kept = independent(cosine, high * STEP)
        before = np.tril(cosine[np.ix_(kept, kept)], -1) + np.triu(
            np.full((len(kept), len(kept)), -np.inf, np.float32)
        )
        places.append(group[kept])
        highest.append(before.max(axis=1))
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(places)[order], np.concatenate(highest)[order], high * STEP


PUBLISHED = Published(
    rule="inside a cluster, farthest from the centroid first: the rows whose highest cosine to any row "
    "before them is lowest",
    source="arXiv 2303.09540, released code; VLM baseline of COINCIDE (2406.10995), code read",
    variants={"published": {"variant": "published"}, "clean": {"variant": "clean"}},
    differs={"clean": "compared with kept rows only; epsilon by bisection"},
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=nested, published=PUBLISHED)
