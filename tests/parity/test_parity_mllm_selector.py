"""MLLM-Selector as read from its abstract: strata of necessity, more from the needier, sources in proportion.

No formula is published; this holds the selector to its own stated reading.
"""

import hashlib
import math

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

STRATA, TAU, NOISE = 10, 1.0, 0.01


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Losses of a seed model, a few of them equal, and sources of unequal size."""
    losses = rng.gamma(2.0, 1.0, rows).astype(np.float32)
    losses[rng.random(rows) < 0.1] = losses[0]
    return pa.table(
        {
            **identified(rng, rows),
            "source": [f"source_{number}" for number in rng.geometric(0.5, rows)],
            "nll": pa.array(losses),
        }
    )


def oracle(rows, budget, params):
    """Equal strata of the loss, shares ~ size x exp(mean loss), systematic sampling over sources."""
    ranked = sorted(rows, key=lambda row: (row["nll"], row["key"]))
    ranked = ranked[: len(ranked) - math.floor(NOISE * len(ranked))]
    strata = [[] for _ in range(STRATA)]
    for place, row in enumerate(ranked):
        strata[place * STRATA // len(ranked)].append(row)
    counts, picks = shares(strata, budget), []
    for number in reversed(range(STRATA)):
        if counts[number]:
            picks += by_source(strata[number], counts[number], offset(params["seed"], number, strata[number]))
    return picks


def shares(strata, budget):
    """Largest remainders, earlier first; what a full stratum cannot take goes to the others."""
    weight = [
        len(of) * math.exp(math.fsum(row["nll"] for row in of) / len(of) / TAU) if of else 0 for of in strata
    ]
    full = {number for number, of in enumerate(strata) if not of}
    while True:
        left = budget - sum(len(strata[number]) for number in full)
        open_strata = [number for number in range(len(strata)) if number not in full]
        total = sum(weight[number] for number in open_strata)
        exact = {number: left * weight[number] / total for number in open_strata}
        over = {number for number in open_strata if exact[number] >= len(strata[number])}
        if not over:
            break
        full |= over
    counts = [len(of) if number in full else math.floor(exact[number]) for number, of in enumerate(strata)]
    for number in sorted(exact, key=lambda number: (counts[number] - exact[number], number)):
        if sum(counts) < budget:
            counts[number] += 1
    return counts


def offset(seed, number, members):
    """Where the systematic sampling of a stratum starts."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % len(members)


def by_source(members, count, start):
    """`count` rows: the share of each source rounded down or up, inside it by the key."""
    left, seen = {}, 0
    for source in sorted({row["source"] for row in members}):
        before = (seen * count + start) // len(members)
        seen += sum(row["source"] == source for row in members)
        left[source] = (seen * count + start) // len(members) - before
    picks = []
    for row in sorted(members, key=lambda row: row["key"]):
        if left[row["source"]]:
            left[row["source"]] -= 1
            picks.append(row["row"])
    return picks


METHOD = Method(
    "mllm_selector",
    make,
    oracle,
    {"necessity": "nll", "noise_tail": NOISE, "strata": STRATA, "tau": TAU},
    sizes=(40, 160),
    available=lambda table: len(table) - len(table) // 100,
)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
