"""CVS: the highest rise of the probability that the answer is valid first; rows without a rise left out."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Probabilities in 64ths, so that differences are whole multiples and many are equal; some missing."""
    valid = rng.integers(0, 65, rows) / 64
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "valid_with": pa.array(valid, pa.float32(), mask=rng.random(rows) < 0.05),
            "valid_without": pa.array(rng.integers(0, 49, rows) / 64, pa.float32()),
        }
    )


def oracle(rows, budget, params):
    """The largest rise first."""
    rise = {
        row["row"]: row["valid_with"] - row["valid_without"] for row in rows if row["valid_with"] is not None
    }
    kept = [row for row in rows if rise.get(row["row"], 0) > 0]
    ranked = sorted(kept, key=lambda row: (-rise[row["row"]], row["key"]))
    return [row["row"] for row in ranked[:budget]]


def available(table: pa.Table) -> int:
    """The rows whose probability rises."""
    return pc.sum(pc.greater(table["valid_with"], table["valid_without"])).as_py() or 0


METHOD = Method("cvs", make, oracle, sizes=(20, 80), available=available)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
