"""Length: the longest texts first, in tokens."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Token counts, many equal."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "text_tokens": pa.array(rng.geometric(0.08, rows), pa.int32()),
        }
    )


def oracle(rows, budget, params):
    """The largest count first."""
    ranked = sorted(rows, key=lambda row: (-row["text_tokens"], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("length", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
