"""Self-Filter: the highest difficulty; each pick takes gamma · d · cosine^2 from its nearest unpicked rows.

Vectors have whole entries and length 4, scores are multiples of 1/64: every cosine and nearly every
difficulty is then exact in both, and cosines have many ties, which are broken by the key.
"""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

from curation.selectors.primitives import remaining

SQUARES = [
    (4,),
    (2, 2, 2, 2),
    (3, 2, 1, 1, 1),
    (3, 1, 1, 1, 1, 1, 1, 1),
    (2, 2, 2, 1, 1, 1, 1),
    (3, 2, 1, 1, 1, 0, 0, 0),
]
"""Whole numbers whose squares add up to 16."""


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Difficulties of both signs."""
    vectors = np.zeros((rows, 8), np.float16)
    for vector in vectors:
        entries = SQUARES[rng.integers(len(SQUARES))]
        vector[: len(entries)] = entries
        rng.shuffle(vector)
        vector *= rng.choice([-1, 1, 1], 8)
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array([1] * rows, pa.int32()),
            "filter_score": pa.array(rng.integers(-200, 60, rows) / 64.0, pa.float32()),
            "emb_clip_pair": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8),
        }
    )


def oracle(rows, budget, params):
    """One pick after the other, everything computed again each time."""
    difficulty = {row["row"]: -row["filter_score"] for row in rows}
    left = {row["row"]: row for row in rows}
    picks = []
    while len(picks) < budget:
        pick = min(left, key=lambda at: (-difficulty[at], left[at]["key"]))
        vector = left.pop(pick)["emb_clip_pair"]
        picks.append(pick)
        if difficulty[pick] < 0:
            continue
        cosine = {
            at: sum(a * b for a, b in zip(vector, left[at]["emb_clip_pair"], strict=True)) / 16 for at in left
        }
        near = sorted(left, key=lambda at: (-cosine[at], left[at]["key"]))[: params["neighbours"]]
        for at in near:
            difficulty[at] -= params["gamma"] * difficulty[pick] * cosine[at] * cosine[at]
    return picks


METHOD = Method("self_filter", make, oracle, {"neighbours": 10, "gamma": 1.0})


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)


def test_random_with_lists_of_a_few_rows(monkeypatch):
    monkeypatch.setattr(remaining, "WHOLE", 0)
    monkeypatch.setattr(remaining, "BLOCK", 3)
    monkeypatch.setattr(remaining, "DEPTH", 1)
    check_random(METHOD)
