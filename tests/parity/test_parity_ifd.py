"""IFD: loss with the question over loss without it, the highest that is not above 1 first."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Losses in quarters, so that ratios repeat; about a third of them are above 1, some missing."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "nll": pa.array(rng.integers(0, 12, rows) / 4, pa.float32(), mask=rng.random(rows) < 0.05),
            "nll_noq": pa.array(rng.integers(1, 16, rows) / 4, pa.float32(), mask=rng.random(rows) < 0.05),
        }
    )


def oracle(rows, budget, params):
    """The largest ratio of at most 1 first."""
    ratio = {
        row["row"]: row["nll"] / row["nll_noq"]
        for row in rows
        if row["nll"] is not None and row["nll_noq"] is not None
    }
    kept = [row for row in rows if ratio.get(row["row"], 2.0) <= 1]
    ranked = sorted(kept, key=lambda row: (-ratio[row["row"]], row["key"]))
    return [row["row"] for row in ranked[:budget]]


def available(table: pa.Table) -> int:
    """The rows whose ratio is at most 1."""
    return pc.sum(pc.less_equal(table["nll"], table["nll_noq"])).as_py() or 0


METHOD = Method("ifd", make, oracle, sizes=(20, 80), available=available)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
