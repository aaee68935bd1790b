"""CLIP score: the highest score first, of the rows that have an image."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Scores on a coarse grid, so that there are ties; one row in eight has no image and no score."""
    images = (rng.random(rows) < 7 / 8) | (np.arange(rows) == 0)
    scores = pa.array(rng.integers(40, 120, rows) / 4.0, pa.float32(), mask=~images)
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array(images, pa.int32()),
            "clip_score": scores,
        }
    )


def usable(table: pa.Table) -> int:
    return int(np.count_nonzero(table["n_images"]))


def oracle(rows, budget, params):
    """The highest scores first."""
    ranked = sorted(
        (row for row in rows if row["n_images"]), key=lambda row: (-row["clip_score"], row["key"])
    )
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("clip_score", make, oracle, available=usable)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
