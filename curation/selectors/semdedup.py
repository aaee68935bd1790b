"""SemDeDup: drops near duplicates inside clusters until exactly the budget is left.

Source: Abbas et al. (arXiv 2303.09540): k-means on embeddings, inside a cluster a row is dropped whose cosine
to a kept one exceeds 1 - epsilon. The paper sets epsilon by hand; here bisection finds it. Needs: embedding
and cluster_image (or others). Cost class: C2 (C1 with vectors of a small encoder). Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SizeError, numbers, one_of
from curation.selectors.primitives.candidates import Candidates, find_candidates
from curation.selectors.primitives.cosine import STEP, Lookup, cosines, joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.greedy import independent
from curation.selectors.signal_columns import columns_read, names_of

PAIR_LIMIT = 500_000_000
"""Most cosines inside the clusters; all are kept in memory, 4 bytes each."""


def reads(vectors: str | Sequence[str] = "emb_image", cluster: str = "image", **_: object) -> tuple[str, ...]:
    """The vectors and their clusters."""
    return columns_read(*names_of(vectors), f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    vectors: str | Sequence[str] = "emb_image",
    cluster: str = "image",
    keep: str = "hard",
    text_only: str = "keep",
) -> Selection:
    """The rows that remain when near duplicates inside cluster_<cluster> are dropped.

    A cluster is visited in the order of `keep`: "hard" (lowest similarity_<cluster>, the cosine to the
    centroid, first), "easy" (highest first) or "random"; ties by the hash of (seed, id). A row is dropped if
    its cosine to a row kept before exceeds 1 - epsilon. Bisection finds an epsilon that leaves at least the
    budget, while one step of 4e-6 more would leave less; of the surplus, the rows most similar to another
    kept row are dropped (`trimmed`). Text-only rows: "keep" (default) gives them their share of the budget at
    random, "exclude" leaves them out. Rows with images but without vector or cluster cannot be picked
    (`missing_value`). Notes: `epsilon_e6`, epsilon in millionths. Reason: cluster, similarity (the highest
    cosine to a row kept before it, null for none). Raises ColumnError, BudgetError, SizeError, SelectorError.
    """
    one_of("keep", keep, ("hard", "easy", "random"))
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{cluster}")
    known &= np.isfinite(clusters)
    similarity = np.zeros(len(columns)) if keep == "random" else numbers(columns, f"similarity_{cluster}")
    candidates = find_candidates(columns, budget, seed, known & np.isfinite(similarity), text_only=text_only)
    ranked = np.argsort(similarity[candidates.rows] * (-1 if keep == "easy" else 1), kind="stable")
    _, codes = np.unique(clusters[candidates.rows[ranked]], return_inverse=True)
    near = _cosines(candidates, ranked, codes, units)
    places, highest, threshold = _thin(near, candidates.budget)
    notes = {"epsilon_e6": round((1 - threshold) * 1e6), "trimmed": len(places) - candidates.budget}
    # the surplus: the rows most similar to another kept row; among equals, those later in the order of `keep`
    left = np.sort(np.argsort(highest, kind="stable")[: candidates.budget])
    places, highest = places[left], highest[left]
    picked = candidates.rows[ranked[places]]
    similarities = pa.array(np.where(highest < -1, 0, highest), mask=highest < -1)
    return candidates.selection(
        columns, ranked[places], notes, cluster=clusters[picked].astype(np.int32), similarity=similarities
    )


def _cosines(
    candidates: Candidates, ranked: np.ndarray, codes: np.ndarray, units: Lookup
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(places in ranked order, float32 cosines) of each cluster; float32 holds multiples of STEP exactly."""
    groups = members_of(codes)
    pairs = sum(len(group) ** 2 for group in groups)
    if pairs > PAIR_LIMIT:
        raise SizeError(pairs, PAIR_LIMIT, "pairs inside clusters", "use more clusters")
    blocks = ((group, units(candidates.rows[ranked[group]])) for group in groups)
    return [(group, cosines(block, block).astype(np.float32)) for group, block in blocks]


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


SELECTOR = Selector(select, reads=reads, cost="C2")
