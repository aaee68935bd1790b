"""Balanced random: a random row of each source in turn, until small sources are exhausted.

Which sources give the rows of an unfinished last turn is not published; here those with the lowest seeded key
of their name, as rows are drawn by the lowest key of their id.
"""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified
from selector_tables import plain_key


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Sources of very unequal size."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": [f"source_{number}" for number in rng.geometric(0.35, rows)],
        }
    )


def oracle(rows, budget, params):
    """Turns over the sources that still have rows."""
    waiting = {}
    for row in sorted(rows, key=lambda row: row["key"]):
        waiting.setdefault(row["source"], []).append(row["row"])
    picks = []
    while len(picks) < budget:
        for source in sorted(waiting, key=lambda name: plain_key(params["seed"], name)):
            if waiting[source]:
                picks.append(waiting[source].pop(0))
    return picks[:budget]


METHOD = Method("random_balanced", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
