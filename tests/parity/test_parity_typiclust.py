"""TypiClust: clusters in turn, the largest first; the row whose nearest neighbours are nearest.

Vectors of +1 and -1 have whole products, so distances are equal or clearly apart: there are many ties, which
the key breaks, and no near-ties.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

NEIGHBOURS, SMALLEST, DIMS = 4, 6, 16


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Clusters of unequal size, some too small, around vectors of signs of which a few are turned."""
    clusters = rng.choice(8, rows, p=[0.3, 0.2, 0.15, 0.12, 0.1, 0.07, 0.04, 0.02])
    vectors = rng.choice([-1, 1], (8, DIMS))[clusters] * rng.choice([-1, 1], (rows, DIMS), p=[0.15, 0.85])
    vectors = vectors.astype(np.float16).reshape(-1)
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "cluster_typiclust": pa.array(clusters, pa.int32()),
            "emb_dino": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMS),
        }
    )


def oracle(rows, budget, params):
    """The most typical of the rows that a cluster has left."""
    clusters = {}
    for row in sorted(rows, key=lambda row: row["key"]):
        clusters.setdefault(row["cluster_typiclust"], []).append(row)
    clusters = {number: of for number, of in clusters.items() if len(of) >= SMALLEST}
    order = sorted(clusters, key=lambda number: (-len(clusters[number]), number))
    picks = []
    while len(picks) < budget:
        for number in order:
            if clusters[number] and len(picks) < budget:
                best = min(clusters[number], key=lambda row, left=clusters[number]: spread(row, left))
                clusters[number].remove(best)
                picks.append(best["row"])
    return picks


def spread(row, left):
    """Mean squared distance to the nearest of the rows that are left."""
    distances = sorted(
        sum((x - y) ** 2 for x, y in zip(row["emb_dino"], other["emb_dino"], strict=True))
        for other in left
        if other is not row
    )
    k = min(NEIGHBOURS, len(left) // 2)
    return sum(distances[:k]) / max(k, 1)


def available(table: pa.Table) -> int:
    """The rows of clusters that are large enough."""
    return sum(size for size in Counter(table["cluster_typiclust"].to_pylist()).values() if size >= SMALLEST)


METHOD = Method("typiclust", make, oracle, {"neighbours": NEIGHBOURS}, sizes=(40, 70), available=available)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
