"""ARDS: nearness to the rows whose loss a perturbation changes most, groups weighted by their mean loss."""

import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

HARD = 3


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Vectors of 16 signs, whose cosines are whole sixteenths: no two different ones are nearly equal."""
    kinds = rng.choice([-1, 1], (max(rows // 2, 2), 16)).astype(np.float16)
    vectors = kinds[rng.integers(0, len(kinds), rows)]
    imageless, choice = rng.random(rows) < 0.15, rng.random(rows) < 0.3
    nll, noised, permuted = (rng.integers(1, 200, rows) / 64 for _ in range(3))
    nll[0], noised[0] = 1.0, 2.0
    imageless[0] = choice[0] = False
    cluster = rng.integers(0, 4, rows)
    cluster[:3] = 0  # a group that is large enough, with a row that can be hard
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array((~imageless).astype(np.int32)),
            "nll": pa.array(nll, pa.float32()),
            "nll_noised": pa.array(noised, pa.float32(), mask=imageless),
            "nll_permuted": pa.array(permuted, pa.float32(), mask=~choice),
            "cluster_ards": pa.array(cluster, pa.int32()),
            "emb_ards": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 16),
        }
    )


def change(row):
    """How much the loss of a row changes; None for a text without options."""
    other = row["nll_noised"] if row["nll_permuted"] is None else row["nll_permuted"]
    return None if other is None else abs(row["nll"] - other)


def oracle(rows, budget, params):
    """Every row's cosines to all hard rows, the highest of each group weighted by the group's softmax."""
    groups = []
    for name in sorted({row["cluster_ards"] for row in rows}):
        own = [row for row in rows if row["cluster_ards"] == name]
        changed = [row for row in own if change(row) is not None]
        changed.sort(key=lambda row: (-change(row), row["key"]))
        if len(own) > 2 and changed:
            groups.append(changed[: params["hard"]])
    means = []
    for group in groups:
        losses = [row["nll"] for row in group]
        losses += [row["nll_permuted"] for row in group if row["nll_permuted"] is not None]
        means.append(math.fsum(losses) / len(losses))
    total = math.fsum(math.exp(mean) for mean in means)
    taken = {row["row"] for group in groups for row in group}

    def score(row):
        def cosine(other):
            return sum(a * b for a, b in zip(row["emb_ards"], other["emb_ards"], strict=True)) / 16

        nearest = (max(map(cosine, group)) for group in groups)
        return math.fsum(math.exp(mean) / total * near for mean, near in zip(means, nearest, strict=True))

    order = sorted(rows, key=lambda row: (row["row"] in taken, -round(score(row), 9), row["key"]))
    return [row["row"] for row in order[:budget]]


METHOD = Method("ards", make, oracle, {"hard": HARD})


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
