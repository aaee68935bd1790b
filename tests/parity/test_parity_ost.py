"""OST: the highest drop of the anchors' loss after one step first."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Gains on a coarse grid, so that there are ties; some are negative."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "step_gain": pa.array(rng.integers(-9, 10, rows) / 1000.0, pa.float32()),
        }
    )


def oracle(rows, budget, params):
    """The highest gain first."""
    ranked = sorted(rows, key=lambda row: (-row["step_gain"], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("ost", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
