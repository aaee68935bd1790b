"""SemDeDup: the lowest of the highest cosines to any earlier row of the cluster, 0 at least."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from parity import Method, check_frozen, check_random, identified

WIDTH = 6
APART = 1e-5


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Clusters with copies and near copies; drawn again while two unequal values are nearer than APART."""
    while True:
        groups = max(rows // 10, 2)
        cluster = rng.integers(0, groups, rows)
        vectors = rng.normal(0, 1, (groups, WIDTH))[cluster] + rng.normal(0, 0.5, (rows, WIDTH))
        copies = rng.random(rows) < 0.1
        vectors[copies] = vectors[rng.integers(0, rows, copies.sum())]
        table = pa.table(
            {
                **identified(rng, rows),
                "source": ["a"] * rows,
                "emb_last_token": pa.FixedSizeListArray.from_arrays(
                    pa.array(vectors.astype(np.float16).reshape(-1)), WIDTH
                ),
                "cluster_semdedup": pa.array(cluster, pa.int32()),
                "similarity_semdedup": pa.array(rng.permutation(rows) / rows, pa.float32()),
            }
        )
        if all(_apart(table, keep) for keep in ("hard", "easy")):
            return table


def _apart(table: pa.Table, keep: str) -> bool:
    found = sorted(values([row | {"key": row["row"]} for row in table.to_pylist()], keep).values())
    return all(b - a == 0 or b - a > APART for a, b in pairwise(found))


def values(rows, keep: str) -> dict[int, float]:
    """The value of each row by its number."""
    found = {}
    for name in {row["cluster_semdedup"] for row in rows}:
        members = [row for row in rows if row["cluster_semdedup"] == name]
        members.sort(key=lambda row: row["key"])
        if keep != "random":
            members.sort(key=lambda row: row["similarity_semdedup"] * (-1 if keep == "easy" else 1))
        for at, row in enumerate(members):
            # rounded, so that the order of additions does not tell equal cosines apart
            cosines = [
                round(cosine(row["emb_last_token"], earlier["emb_last_token"]), 12)
                for earlier in members[:at]
            ]
            found[row["row"]] = max([0.0, *cosines])
    return found


def cosine(a, b) -> float:
    """Of two lists of numbers."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def oracle(rows, budget, params):
    """The lowest values first."""
    value = values(rows, params.get("keep", "hard"))
    ranked = sorted(rows, key=lambda row: (value[row["row"]], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("semdedup", make, oracle)


def test_frozen():
    check_frozen(METHOD)


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_random(keep):
    check_random(replace(METHOD, params={"keep": keep}))
