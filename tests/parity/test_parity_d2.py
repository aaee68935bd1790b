"""D2 pruning on a directed graph: margins, squared distances of vectors as they are."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from parity import Method, check_frozen, check_random, identified

WIDTH = 4
LEAST = 1e-7


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Groups of vectors whose entries are multiples of 1/16, so that many distances are equal.

    None is a copy of another: a pick would lower its copy's density to 0, give or take a last bit.
    """
    group = rng.integers(0, max(rows // 8, 2), rows)
    centre = rng.normal(0, 1, (rows, WIDTH))[group]
    vectors = np.zeros((rows, WIDTH))
    while len(np.unique(vectors, axis=0)) < rows:
        vectors = np.round((centre + rng.normal(0, 0.3, (rows, WIDTH))) * 16) / 16
    margin = np.clip(rng.normal(0.1, 0.4, rows), -1, 1)
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "emb_token_mean": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.astype(np.float16).reshape(-1)), WIDTH
            ),
            "base_margin": pa.array(margin, pa.float32()),
            "base_el2n": pa.array(
                np.clip(0.7 - 0.5 * margin + rng.normal(0, 0.1, rows), 0, 1.4), pa.float32()
            ),
        }
    )


def squared(a, b) -> float:
    """Squared Euclidean distance of two lists of numbers."""
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def oracle(rows, budget, params):
    """Repeatedly the highest density, among equal ones the lowest key."""
    rows = sorted(rows, key=lambda row: row["key"])
    n = len(rows)
    margin = [max(row["base_margin"], LEAST) for row in rows]
    apart = [[squared(a["emb_token_mean"], b["emb_token_mean"]) for b in rows] for a in rows]
    near = [sorted((j for j in range(n) if j != i), key=lambda j: (apart[i][j], j))[:5] for i in range(n)]
    heard = [sum(math.exp(-apart[i][j]) * margin[j] for j in near[i]) for i in range(n)]
    together = (lambda a, b: a * b) if params.get("mode") == "product" else (lambda a, b: a + b)
    left = [together(margin[i], heard[i]) for i in range(n)]
    picks: list[int] = []
    while len(picks) < budget:
        at = max((i for i in range(n) if i not in picks), key=lambda i: (left[i], -i))
        picks.append(at)
        for j in near[at]:
            left[j] -= math.exp(-0.4 * apart[at][j]) * left[at] if j not in picks else 0.0
    return [rows[i]["row"] for i in picks]


METHOD = Method("d2", make, oracle)


def test_frozen():
    check_frozen(METHOD)


@pytest.mark.parametrize("mode", ["sum", "product"])
def test_random(mode):
    check_random(replace(METHOD, params={"mode": mode}))
