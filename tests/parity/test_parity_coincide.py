"""COINCIDE: clusters by transferability over density; inside a cluster, greedy MMD."""

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

WIDTH = 4
IMAGE, TEXT = "emb_tanh_attention_image", "emb_tanh_attention_text"
TAU, SAME = 0.1, 0.9
APART = 1e-3
"""How far from a tie a case stays: of the selector's cosines, rounded to 4e-6, none can then decide."""
SHARE = 0.2


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Clusters, some nearly the same, with copies inside; drawn again while a decision is nearly a tie."""
    budgets = range(1, rows) if rows < 100 else [int(SHARE * rows)]
    while True:
        table = _draw(rng, rows)
        found = [row | {"key": row["row"]} for row in table.to_pylist()]
        clusters = by_cluster(found)
        if clear(clusters, budgets):
            return table


def _draw(rng: np.random.Generator, rows: int) -> pa.Table:
    groups = max(rows // 9, 2)
    cluster = rng.integers(0, groups, rows)
    near = rng.integers(0, groups, groups)
    columns = {}
    for name in (IMAGE, TEXT):
        centre = rng.normal(0, 1, (groups, WIDTH))
        alike = rng.random(groups) < 0.4
        centre[alike] = centre[near[alike]] + rng.normal(0, 0.1, (int(alike.sum()), WIDTH))
        width = rng.choice([0.1, 0.3, 0.6], groups)[cluster, None]
        columns[name] = centre[cluster] + rng.normal(0, 1, (rows, WIDTH)) * width
    for copy in np.flatnonzero(rng.random(rows) < 0.1):
        of = rng.choice(np.flatnonzero(cluster == cluster[copy]))
        for values in columns.values():
            values[copy] = values[of]
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array([1] * rows, pa.int32()),
            "cluster_coincide": pa.array(cluster, pa.int32()),
        }
        | {
            name: pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float16).reshape(-1)), WIDTH)
            for name, values in columns.items()
        }
    )


def clear(clusters, budgets) -> bool:
    """Whether no decision of these budgets is nearer to a tie than APART, or a hundredth of it for MMD."""
    scores = [score for _, score, _ in clusters]
    if any(a - b < APART for a, b in pairwise(sorted(scores, reverse=True))):
        return False
    if any(abs(value - SAME) < APART for value in between([centre for _, _, centre in clusters])):
        return False
    most = [0] * len(clusters)
    for budget in budgets:
        asked: list[float] = []
        counts = allocate(clusters, budget, asked)
        if any(abs(number % 1 - 0.5) < APART for number in asked):
            return False
        most = [max(pair) for pair in zip(most, counts, strict=True)]
    gaps: list[float] = []
    for (members, _, _), count in zip(clusters, most, strict=True):
        greedy(members, count, gaps)
    return all(gap == 0 or gap > APART / 100 for gap in gaps)


def unit(values):
    """A list of numbers, divided by its length."""
    length = math.hypot(*values)
    return [value / length for value in values]


def dot(a, b) -> float:
    """Of two lists of numbers."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def between(centres) -> list[float]:
    """The cosine of each two of the centres."""
    return [dot(a, b) for at, a in enumerate(centres) for b in centres[at + 1 :]]


def by_cluster(rows):
    """(members with their vector, transferability / density / tau, direction of the centroid) of each."""
    clusters = []
    for name in sorted({row["cluster_coincide"] for row in rows}):
        members = sorted((row for row in rows if row["cluster_coincide"] == name), key=lambda row: row["key"])
        for row in members:
            row["unit"] = [x / math.sqrt(2) for x in [*unit(row[IMAGE]), *unit(row[TEXT])]]
        centre = unit([math.fsum(unit(row[TEXT])[at] for row in members) for at in range(WIDTH)])
        kernels = [[kernel(a["unit"], b["unit"]) for b in members] for a in members]
        density = math.fsum(value for line in kernels for value in line) / len(members) ** 2
        clusters.append((members, density, centre))
    found = []
    for at, (members, density, centre) in enumerate(clusters):
        cosines = [dot(centre, other) for place, (_, _, other) in enumerate(clusters) if place != at]
        others = [cosine for cosine in cosines if cosine <= SAME]
        transfer = sum(others) / len(others) if others else 0.0
        found.append((members, transfer / density / TAU, centre))
    return found


def kernel(a, b) -> float:
    """Gaussian, of width 1."""
    return math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 2)


def allocate(clusters, budget: int, asked: list[float]) -> list[int]:
    """Rows of each cluster; the numbers that were rounded are appended to `asked`."""
    counts = [0] * len(clusters)
    while sum(counts) < budget:  # a second time only where the clusters were too small
        places = [at for at, (members, _, _) in enumerate(clusters) if counts[at] < len(members)]
        places.sort(key=lambda at: -clusters[at][1])
        for turn, at in enumerate(places):
            weights = [math.exp(clusters[other][1] - clusters[at][1]) for other in places[turn:]]
            asked.append((budget - sum(counts)) / sum(weights))
            counts[at] += min(round(asked[-1]), len(clusters[at][0]) - counts[at])
    return counts


def greedy(members, count: int, gaps: list[float]):
    """The rows that one after the other leave the lowest MMD^2; how far ahead each was goes to `gaps`."""
    kernels = [[kernel(a["unit"], b["unit"]) for b in members] for a in members]
    mean = [math.fsum(line) / len(members) for line in kernels]
    picks: list[int] = []
    within, across = 0.0, 0.0
    while len(picks) < count:
        size = len(picks) + 1
        cost = {
            at: (within + 2 * math.fsum(kernels[at][pick] for pick in picks) + 1) / size**2
            - 2 * (across + mean[at]) / size
            for at in range(len(members))
            if at not in picks
        }
        best = min(cost, key=lambda at: (cost[at], at))
        others = [cost[at] for at in cost if members[at]["unit"] != members[best]["unit"] and at != best]
        gaps.append(min(others, default=math.inf) - cost[best])
        within += 2 * math.fsum(kernels[best][pick] for pick in picks) + 1
        across += mean[best]
        picks.append(best)
    return [members[at]["row"] for at in picks]


def oracle(rows, budget, params):
    """The clusters by descending score, and their picks."""
    clusters = by_cluster(rows)
    counts = allocate(clusters, budget, [])
    picks: list[int] = []
    for (members, _, _), count in zip(clusters, counts, strict=True):
        picks += greedy(members, count, [])
    return picks


METHOD = Method("coincide", make, oracle, ordered=False, sizes=(12, 36), budget=SHARE)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
