"""TIVE: rows of a task by its mean gradient norm, a draw ~ exp(0.001 v) inside it.

The released draw is unseeded. Successive draws by weights w are the order of log w + Gumbel noise; the noise
here comes from the key of a row, as -log(-log u) with u the key's first 53 bits.
"""

import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

DIMS = 6


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Sources of unequal size, so that some are smaller than their share."""
    vectors = rng.normal(0, 1, (rows, DIMS)) + rng.normal(0, 1, DIMS)
    sources = rng.choice(["a", "b", "c", "d"], rows, p=[0.6, 0.25, 0.1, 0.05])
    lengths = rng.gamma(2.0, 1.0, rows) * np.where(sources == "a", 1.0, 3.0)
    return pa.table(
        {
            **identified(rng, rows),
            "source": sources.tolist(),
            "grad_norm": pa.array(lengths, pa.float32()),
            "grad": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).reshape(-1)), DIMS),
        }
    )


def _cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def _shares(worth, sizes, budget):
    """Largest remainders of budget x worth / sum; what a full task cannot take goes to the others."""
    full, exact = set(), {}
    while True:
        open_tasks = [task for task in worth if task not in full]
        left = budget - sum(sizes[task] for task in full)
        total = sum(worth[task] for task in open_tasks)
        exact = {task: left * worth[task] / total for task in open_tasks}
        over = {task for task in open_tasks if exact[task] >= sizes[task]}
        if not over:
            break
        full |= over
        if full == set(worth):
            exact = {}
            break
    counts = {task: sizes[task] for task in full} | {task: math.floor(x) for task, x in exact.items()}
    by_remainder = sorted(exact, key=lambda task: (-(exact[task] - counts[task]), task))
    for task in by_remainder[: budget - sum(counts.values())]:
        counts[task] += 1
    return counts


def oracle(rows, budget, params):
    """The highest 0.001 v + Gumbel noise of each task."""
    tasks = {}
    for row in rows:
        tasks.setdefault(row["source"], []).append(row)
    worth = {
        task: math.fsum(r["grad_norm"] for r in members) / len(members) for task, members in tasks.items()
    }
    counts = _shares(worth, {task: len(members) for task, members in tasks.items()}, budget)
    picks = []
    for task, members in tasks.items():

        def noisy(row, members=members):
            v = sum(_cosine(row["grad"], other["grad"]) for other in members) / len(members)
            u = ((row["key"] >> 11) + 0.5) / 2**53
            return params.get("scale", 0.001) * v - math.log(-math.log(u))

        picks += sorted(members, key=noisy, reverse=True)[: counts[task]]
    return [row["row"] for row in picks]


METHOD = Method("tive", make, oracle, ordered=False)
STRONG = Method("tive", make, oracle, {"scale": 5.0}, ordered=False)
"""With 0.001 the draw is nearly uniform: at this scale the mean cosine decides most picks."""


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)


def test_random_where_the_cosine_decides():
    check_random(STRONG)
