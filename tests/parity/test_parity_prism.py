"""PRISM: rows without image, and those of the lowest mean cosine to all others, less the mean vector."""

import math
from operator import mul

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Vectors around one far from zero, some of them equal; rows without image have none."""
    kinds = rng.normal(1.0, 1.0, (rows, 6)).astype(np.float16)
    vectors = kinds[rng.integers(0, rows, rows)]
    imageless = rng.random(rows) < 0.1
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array((~imageless).astype(np.int32)),
            "emb_shallow_visual": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), 6, mask=pa.array(imageless)
            ),
        }
    )


def unit(vector):
    """The vector at length 1."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector]


def oracle(rows, budget, params):
    """Lowest first, by all pairs of centred unit vectors; then the rows without image, which come before."""
    texts = sorted((row for row in rows if not row["n_images"]), key=lambda row: row["key"])[:budget]
    images = [row for row in rows if row["n_images"]]
    entries = zip(*(row["emb_shallow_visual"] for row in images), strict=True)
    mean = [math.fsum(values) / len(images) for values in entries]
    units = [
        unit([value - middle for value, middle in zip(row["emb_shallow_visual"], mean, strict=True)])
        for row in images
    ]

    def redundancy(at):
        others = (units[other] for other in range(len(units)) if other != at)
        products = (math.fsum(map(mul, units[at], other)) for other in others)
        return math.fsum(products) / (len(units) - 1)

    scores = [round(redundancy(at), 7) for at in range(len(images))]
    order = sorted(range(len(images)), key=lambda at: (scores[at], images[at]["key"]))
    return [row["row"] for row in [*(images[at] for at in order[: budget - len(texts)]), *texts]]


METHOD = Method("prism", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
