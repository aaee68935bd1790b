"""EL2N: mean over the answer's tokens of the error norm, the highest first."""

import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Norms between 0 and sqrt(2), many equal, some missing."""
    norms = np.round(rng.random(rows) * math.sqrt(2) / 0.07) * 0.07
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "base_el2n": pa.array(norms, pa.float32(), mask=rng.random(rows) < 0.1),
        }
    )


def oracle(rows, budget, params):
    """The largest norm first; a row without one cannot be ranked."""
    known = [row for row in rows if row["base_el2n"] is not None]
    ranked = sorted(known, key=lambda row: (-row["base_el2n"], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("el2n", make, oracle, available=lambda table: len(table) - table["base_el2n"].null_count)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
