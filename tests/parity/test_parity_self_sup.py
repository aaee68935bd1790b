"""Self-supervised prototypes: the farthest from the centroid of its cluster first."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Cosines to the centroid on a coarse grid."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "similarity_self_sup": pa.array(rng.integers(-5, 17, rows) / 16, pa.float32()),
        }
    )


def oracle(rows, budget, params):
    """The largest distance of unit vectors, 2 - 2 cos, first."""
    ranked = sorted(rows, key=lambda row: (2 * row["similarity_self_sup"] - 2, row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("self_sup", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
