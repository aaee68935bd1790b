"""GraNd: the longest gradient first."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Lengths on a coarse grid."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "grad_norm": pa.array(rng.geometric(0.1, rows) / 8, pa.float32()),
        }
    )


def oracle(rows, budget, params):
    """The largest length first."""
    ranked = sorted(rows, key=lambda row: (-row["grad_norm"], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("grand", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
