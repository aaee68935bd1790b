"""Perplexity: exp of the mean answer loss, the highest first."""

import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Losses on a coarse grid, so that there are ties."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "base_nll": pa.array(rng.integers(1, 30, rows) / 7.0, pa.float32()),
        }
    )


def oracle(rows, budget, params):
    """The highest perplexity first."""
    ranked = sorted(rows, key=lambda row: (-math.exp(row["base_nll"]), row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("perplexity", make, oracle, {"rule": "top"})


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
