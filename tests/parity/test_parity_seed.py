"""SEED: the greedy heaviest independent set of a graph of nearest neighbours with local thresholds."""

import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

DIMS = 4
PARAMS = {"tasks": ["vqa"], "neighbours": 5}


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Vectors around a few directions; drawn again while a cosine is within 1e-4 of a threshold or a tie."""
    while True:
        centres = rng.normal(0, 1, (6, DIMS))
        vectors = (centres[rng.integers(0, 6, rows)] + rng.normal(0, 0.5, (rows, DIMS))).astype(np.float16)
        if _apart(vectors.tolist()):
            break
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "masked_influence_vqa": pa.array(rng.integers(0, 40, rows) / 8.0, pa.float32()),
            "adam_mean_grad": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMS),
        }
    )


def _cosine(a, b):
    length = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length


def _near(vectors, at):
    """(cosine, place) of the nearest others of one vector, nearest first, and the one after them."""
    others = [(_cosine(vectors[at], other), place) for place, other in enumerate(vectors) if place != at]
    return sorted(others, reverse=True)[: PARAMS["neighbours"] + 1]


def _apart(vectors):
    """Whether no edge hangs on the resolution of cosines (4e-6)."""
    for at in range(len(vectors)):
        near = _near(vectors, at)
        kth = near[: PARAMS["neighbours"]][-1][0]
        if len(near) > PARAMS["neighbours"] and kth - near[-1][0] < 1e-4:
            return False
        if any(abs(cosine - max(0.7, 0.95 * kth)) < 1e-4 for cosine, _ in near):
            return False
    return True


def oracle(rows, budget, params):
    """Picks in order; barred rows follow where too few are left."""
    vectors = [row["adam_mean_grad"] for row in rows]
    joined = set()
    for at in range(len(rows)):
        near = _near(vectors, at)[: params["neighbours"]]
        for cosine, place in near:
            if cosine >= max(0.7, 0.95 * near[-1][0]):
                joined |= {(at, place), (place, at)}
    ranked = sorted(range(len(rows)), key=lambda at: (-rows[at]["masked_influence_vqa"], rows[at]["key"]))
    picks = []
    for at in ranked:
        if not any((at, pick) in joined for pick in picks):
            picks.append(at)
    picks += [at for at in ranked if at not in picks]
    return [rows[at]["row"] for at in picks[:budget]]


METHOD = Method("seed", make, oracle, PARAMS, rows=60, sizes=(12, 30))


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
