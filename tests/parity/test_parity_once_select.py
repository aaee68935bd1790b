"""OnceSelect: of each cluster's least confident rows, a k-DPP. The oracle lists all subsets of a block.

A k-DPP is random, so both draw from the same numbers: rows are decided in the order of their key, each by a
number that follows from it, with the probability that it is in the sample given the rows decided before.
"""

import itertools
import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

BLOCK = 8


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """A few clusters, the first with copies; confidences on a grid, so that there are ties."""
    vectors = rng.normal(0, 1, (rows, 5)).astype(np.float16)
    vectors[: rows // 6] = vectors[0]
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array([1] * rows, pa.int32()),
            "once_confidence": pa.array(rng.integers(1, 30, rows) / 32.0, pa.float32()),
            "cluster_once_select": pa.array(np.sort(rng.geometric(0.3, rows)), pa.int32()),
            "emb_clip_turns": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 5),
        }
    )


def oracle(rows, budget, params):
    """Quotas, candidates, blocks, samples."""
    groups = {}
    for row in rows:
        groups.setdefault(row["cluster_once_select"], []).append(row)
    names = sorted(groups)
    shares = quotas([len(groups[name]) for name in names], budget)
    picks = []
    for name, share in zip(names, shares, strict=True):
        ranked = sorted(groups[name], key=lambda row: (row["once_confidence"], row["key"]))[: 2 * share]
        quality = {row["row"]: 1 - place / len(ranked) for place, row in enumerate(ranked)}
        shuffled = sorted(ranked, key=lambda row: row["key"])
        blocks = [shuffled[at : at + params["block"]] for at in range(0, len(shuffled), params["block"])]
        parts = remainders_first([len(block) for block in blocks], share)
        for block, part in zip(blocks, parts, strict=True):
            picks += drawn(block, part, quality)
    return picks


def quotas(sizes, budget):
    """Rounded down, at least 1, the rest to the largest remainders; too much is taken from the largest.

    Of equally large shares from that of the smaller cluster.
    """
    total = sum(sizes)
    if budget < len(sizes):
        first = sorted(range(len(sizes)), key=lambda at: -sizes[at])[:budget]
        return [int(at in first) for at in range(len(sizes))]
    counts = [max(1, budget * size // total) for size in sizes]
    left = budget - sum(counts)
    by_remainder = sorted(
        (at for at in range(len(sizes)) if budget * sizes[at] >= total),
        key=lambda at: -(budget * sizes[at] % total),
    )
    for at in by_remainder[: max(left, 0)]:
        counts[at] += 1
    for _ in range(-left):
        most = [at for at, count in enumerate(counts) if count == max(counts)]
        counts[min(most, key=lambda at: (sizes[at], -at))] -= 1
    return counts


def remainders_first(sizes, budget):
    """Shares by size, rounded down, the rest to the largest remainders."""
    total = sum(sizes) or 1
    counts = [budget * size // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda at: -(budget * sizes[at] % total))
    for at in order[: budget - sum(counts)]:
        counts[at] += 1
    return counts


def drawn(block, size, quality):
    """Each row in turn, by the weights of the subsets that agree with what was decided before."""
    kernel = [[similarity(a, b, quality) for b in block] for a in block]
    weights = {
        subset: determinant([[kernel[a][b] for b in subset] for a in subset])
        for subset in itertools.combinations(range(len(block)), size)
    }
    picks = []
    for at, row in enumerate(block):
        inside = {subset: weight for subset, weight in weights.items() if at in subset}
        number = (row["key"] * 0x9E3779B97F4A7C15 % 2**64 >> 11) / 2**53
        if number < sum(inside.values()) / sum(weights.values()):
            picks.append(row["row"])
            weights = inside
        else:
            weights = {subset: weight for subset, weight in weights.items() if at not in subset}
    return picks


def similarity(a, b, quality):
    """sqrt(q_i q_j) (1 + cosine) / 2, and 1e-6 more on the diagonal."""
    x, y = a["emb_clip_turns"], b["emb_clip_turns"]
    dot = sum(float(p) * float(q) for p, q in zip(x, y, strict=True))
    cosine = dot / math.sqrt(sum(float(p) ** 2 for p in x)) / math.sqrt(sum(float(q) ** 2 for q in y))
    return math.sqrt(quality[a["row"]] * quality[b["row"]]) * (1 + cosine) / 2 + 1e-6 * (a is b)


def determinant(matrix):
    """By elimination; the matrix is positive definite."""
    matrix, product = [list(row) for row in matrix], 1.0
    for at in range(len(matrix)):
        product *= matrix[at][at]
        for below in range(at + 1, len(matrix)):
            factor = matrix[below][at] / matrix[at][at]
            matrix[below] = [x - factor * y for x, y in zip(matrix[below], matrix[at], strict=True)]
    return max(product, 0.0)


METHOD = Method("once_select", make, oracle, {"block": BLOCK}, ordered=False)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
