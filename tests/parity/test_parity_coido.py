"""CoIDO: quota of a source by its size; in it the lowest score of the scorer first."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Scores on a coarse grid, so that there are ties; sources of unlike sizes."""
    return pa.table(
        {
            **identified(rng, rows),
            "source": [f"source {int(draw)}" for draw in rng.geometric(0.4, rows)],
            "n_images": pa.array([1] * rows, pa.int32()),
            "coido_score": pa.array(rng.integers(-20, 20, rows) / 8.0, pa.float32()),
        }
    )


def oracle(rows, budget, params):
    """Shares by largest remainders; the sources take turns, each with its lowest score."""
    groups = {}
    for row in rows:
        groups.setdefault(row["source"], []).append(row)
    names = sorted(groups)
    shares = {name: budget * len(groups[name]) // len(rows) for name in names}
    remainders = {name: budget * len(groups[name]) % len(rows) for name in names}
    for name in sorted(names, key=lambda name: -remainders[name])[: budget - sum(shares.values())]:
        shares[name] += 1
    ranked = {name: sorted(groups[name], key=lambda row: (row["coido_score"], row["key"])) for name in names}
    turns = [(turn, name) for name in names for turn in range(shares[name])]
    return [ranked[name][turn]["row"] for turn, name in sorted(turns)]


METHOD = Method("coido", make, oracle, ordered=False)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
