"""Deita: the highest sum of complexity · quality over the turns, unless too similar to an accepted row."""

import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

WIDTH = 5
THRESHOLD = 0.9


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Grades of one to five turns (the score is their sum, on a coarse grid), and vectors around few centres.

    Vectors whose cosine to another is within 0.001 of the threshold are drawn again: the selector rounds
    cosines to steps of 4e-6.
    """
    turns = rng.integers(1, 6, rows)
    scores = [sum(int(rng.integers(2, 13)) * int(rng.integers(2, 13)) / 4 for _ in range(n)) for n in turns]
    centres = rng.normal(0, 1, (max(3, rows // 3), WIDTH))
    vectors = np.empty((0, WIDTH), np.float32)
    while len(vectors) < rows:
        drawn = (centres[rng.integers(len(centres))] + rng.normal(0, 0.25, WIDTH)).astype(np.float32)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ (drawn / np.linalg.norm(drawn))
        if (np.abs(unit - THRESHOLD) > 1e-3).all():
            vectors = np.vstack([vectors, drawn])
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_turns": pa.array(turns, pa.int32()),
            "deita_score": pa.array(scores, pa.float32()),
            "emb_last_token": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), WIDTH),
        }
    )


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def oracle(rows, budget, params):
    """Accepted rows by score; then, as the selector is asked to fill, the best of those that were skipped."""
    ranked = sorted(rows, key=lambda row: (-row["deita_score"], row["key"]))
    accepted, skipped = [], []
    for row in ranked:
        near = any(cosine(row["emb_last_token"], other["emb_last_token"]) > THRESHOLD for other in accepted)
        (skipped if near else accepted).append(row)
    return [row["row"] for row in (accepted[:budget] + skipped)[:budget]]


METHOD = Method("deita", make, oracle, {"fill": "score"})


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
