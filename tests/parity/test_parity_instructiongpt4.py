"""InstructionGPT-4: the best of each cluster by its share, rounded down to at least one; of them the best."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

CLUSTERS = 7


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Values near 31 on a coarse grid, so that there are ties; one row in ten has no image and no cluster."""
    images = (rng.random(rows) < 0.9) | (np.arange(rows) == 0)
    clusters = np.minimum(rng.geometric(0.25, rows), CLUSTERS).astype(np.int32) - 1
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array(images, pa.int32()),
            "value": pa.array(31 + rng.integers(-20, 20, rows) / 16.0, pa.float32()),
            "cluster_instructiongpt4": pa.array(clusters, pa.int32(), mask=~images),
        }
    )


def usable(table: pa.Table) -> int:
    return int(np.count_nonzero(table["n_images"]))


def oracle(rows, budget, params):
    """The shortlist by value, then the others by value, which the selector needs where it is too short."""
    rows = sorted((row for row in rows if row["n_images"]), key=lambda row: (-row["value"], row["key"]))
    wanted = min(math.ceil(Fraction(102, 100) * budget), len(rows))
    clusters = {row["cluster_instructiongpt4"] for row in rows}
    shortlist = []
    for cluster in clusters:
        members = [row for row in rows if row["cluster_instructiongpt4"] == cluster]
        shortlist += [row["row"] for row in members[: max(wanted * len(members) // len(rows), 1)]]
    ranked = [row["row"] for row in rows]
    inside = [row for row in ranked if row in shortlist]
    return (inside + [row for row in ranked if row not in shortlist])[:budget]


METHOD = Method("instructiongpt4", make, oracle, available=usable)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
