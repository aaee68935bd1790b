"""PreSel: tasks by their mean IRS over the reference part, clusters by size, rows by typicality."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
from parity import CASES, Method, check_frozen, check_random, expected, identified

from curation.selectors.registry import get_selector

WIDTH = 5
APART = 2e-5
"""How far unequal typicalities of a cluster are apart; the selector rounds cosines to 4e-6."""


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Three to six tasks of unequal size, each with its clusters; drawn again while typicalities are near.

    Two tasks at least have rows in the reference part: with one alone all weights are equal, and the floor
    of a whole number hangs on a last bit.
    """
    while True:
        tasks = int(rng.integers(3, 7))
        task = rng.choice(tasks, rows, p=rng.dirichlet([1.5] * tasks))
        cluster = task * 5 + rng.choice(5, rows, p=[0.4, 0.3, 0.15, 0.1, 0.05])
        vectors = rng.normal(0, 1, (tasks * 5, WIDTH))[cluster] + rng.normal(0, 0.5, (rows, WIDTH))
        reference = rng.random(rows) < 0.1
        reference[[0, int(np.argmax(task != task[0]))]] = True
        no_image = rng.random(rows) < 0.1
        no_image &= ~reference
        emb = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.astype(np.float16).reshape(-1)), WIDTH, mask=pa.array(no_image)
        )
        table = pa.table(
            {
                **identified(rng, rows),
                "source": [f"task{name}" for name in task],
                "n_images": pa.array(np.where(no_image, 0, 1), pa.int32()),
                "nll": pa.array(rng.gamma(2, 0.5, rows), pa.float32()),
                "nll_noq": pa.array(rng.gamma(4, 0.5, rows) + 0.1, pa.float32()),
                "emb_dino": emb,
                "cluster_presel": pa.array(cluster, pa.int32(), mask=no_image),
                "in_seed": reference,
            }
        )
        if all(_apart(table, reference) for reference in (True, False)):
            return table


def _apart(table: pa.Table, with_reference: bool) -> bool:
    found = usable([row | {"key": row["row"]} for row in table.to_pylist()])
    free = [row for row in found if not (with_reference and row["in_seed"])]
    for name in {row["cluster_presel"] for row in free}:
        values = sorted(typicality([row for row in free if row["cluster_presel"] == name]).values())
        if any(0 < b - a < APART for a, b in pairwise(values)):
            return False
    return True


def free_rows(table: pa.Table) -> int:
    """How many rows have an image: all that can be picked."""
    return sum(count > 0 for count in table["n_images"].to_pylist())


def usable(rows):
    """Those with features."""
    return [row for row in rows if row["emb_dino"] is not None]


def typicality(members) -> dict[int, float]:
    """Mean cosine to the five nearest others by the number of the row, 0 for a single one."""
    found = {}
    for row in members:
        cosines = sorted(
            (cosine(row["emb_dino"], other["emb_dino"]) for other in members if other is not row),
            reverse=True,
        )[:5]
        found[row["row"]] = sum(cosines) / len(cosines) if cosines else 0.0
    return found


def cosine(a, b) -> float:
    """Of two lists of numbers."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_task(rows, budget: int, reference) -> dict[str, int]:
    """Rows of each task: the floor of its share of the softmax, and what is left to the heaviest."""
    ratios = {row["row"]: row["nll"] / row["nll_noq"] for row in rows if row in reference}
    everywhere = math.fsum(ratios.values()) / len(ratios)
    names = sorted({row["source"] for row in usable(rows)})
    weights = {}
    for name in names:
        own = [ratios[row["row"]] for row in reference if row["source"] == name]
        mean = math.fsum(own) / len(own) if own else everywhere
        weights[name] = math.exp(-mean * math.sqrt(len(names)))
    total = math.fsum(weights.values())
    counts = {name: math.floor(budget * weight / total) for name, weight in weights.items()}
    counts[max(names, key=lambda name: weights[name])] += budget - sum(counts.values())
    return counts


def by_cluster(sizes, whole, wanted: int) -> dict[int, int]:
    """Rows of each cluster of a task: `sizes` without the reference part, `whole` with it."""
    total = sum(sizes.values())
    counts = {name: min(round(size / total * wanted), size) if total else 0 for name, size in sizes.items()}
    missing = wanted - sum(counts.values())
    if missing > 0:
        for name in sorted(sizes, key=lambda name: (-whole[name], name)):
            if counts[name] < sizes[name] and missing:
                counts[name] += 1
                missing -= 1
    if missing < 0:
        for name in sorted(sizes, key=lambda name: (whole[name], name)):
            if counts[name] > 0 and missing:
                counts[name] -= 1
                missing += 1
    return counts


def oracle(rows, budget, params):
    """The reference part, the typical rows of every cluster, and random ones where these are too few."""
    rows = sorted(rows, key=lambda row: row["key"])
    part = [row for row in rows if row["in_seed"]] if params.get("reference", "in_seed") else []
    picks = [row["row"] for row in part]
    wanted = budget - len(part)
    for name, count in by_task(rows, wanted, part or rows).items():
        task = [row for row in usable(rows) if row["source"] == name]
        labels = sorted({row["cluster_presel"] for row in task})
        free = {
            label: [row for row in task if row["cluster_presel"] == label and row not in part]
            for label in labels
        }
        whole = {label: sum(row["cluster_presel"] == label for row in task) for label in labels}
        sizes = {label: len(members) for label, members in free.items()}
        for label, number in by_cluster(sizes, whole, count).items():
            value = typicality(free[label])
            ranked = sorted(free[label], key=lambda row: (-value[row["row"]], row["key"]))
            picks += [row["row"] for row in ranked[:number]]
    left = [row["row"] for row in usable(rows) if row["row"] not in picks]
    return picks + left[: budget - len(picks)]


METHOD = Method("presel", make, oracle, ordered=False, rows=240, sizes=(24, 60), available=free_rows)


def test_frozen():
    check_frozen(METHOD)


def test_random_without_a_reference_part():
    check_random(replace(METHOD, params={"reference": None}))


def test_random_with_a_reference_part_which_the_budget_exceeds():
    for number in range(CASES):
        rng = np.random.default_rng(number)
        table = make(rng, int(rng.integers(*METHOD.sizes)))
        budget = int(rng.integers(sum(table["in_seed"].to_pylist()) + 1, free_rows(table)))
        found = get_selector("presel")(table, budget, number).rows.tolist()
        assert sorted(found) == sorted(expected(METHOD, table, budget, number)), f"case {number}"
