"""AUM at one checkpoint: the highest margin of probabilities first."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Margins between -1 and 1 on a coarse grid, some missing."""
    margins = rng.integers(-10, 11, rows) / 10
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "base_margin": pa.array(margins, pa.float32(), mask=rng.random(rows) < 0.1),
        }
    )


def oracle(rows, budget, params):
    """The largest margin first; a row without one cannot be ranked."""
    known = [row for row in rows if row["base_margin"] is not None]
    ranked = sorted(known, key=lambda row: (-row["base_margin"], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("aum", make, oracle, available=lambda table: len(table) - table["base_margin"].null_count)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
