"""DataTailor as its released code picks: ranks of three values inside a source, quotas by the spectrum."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Small whole vectors and entropies in 64ths, so that equal values are equal and others far apart."""
    sources = [f"task{value}" for value in rng.integers(0, 3, rows)]
    vectors = rng.integers(-3, 4, (rows, 4)).astype(np.float16)
    return pa.table(
        {
            **identified(rng, rows),
            "source": sources,
            "n_images": pa.array(rng.integers(0, 2, rows), pa.int32()),
            "n_turns": pa.array(rng.integers(1, 5, rows), pa.int32()),
            "spectrum_entropy": pa.array(rng.integers(20, 400, rows) / 64, pa.float32()),
            "spectrum_top": pa.array(rng.integers(5, 60, rows) / 64, pa.float32()),
            "cluster_datatailor": pa.array(rng.integers(0, 4, rows), pa.int32()),
            "emb_last_token": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 4),
        }
    )


def mean_vector(rows):
    """The mean of the rows' vectors."""
    entries = zip(*(row["emb_last_token"] for row in rows), strict=True)
    return [math.fsum(values) / len(rows) for values in entries]


def cosine(a, b):
    """0 where one of them is zero."""
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0


def values_of(rows):
    """(row, informativeness, uniqueness, representativeness) of the rows of one source."""
    clusters = {}
    for row in rows:
        clusters.setdefault(row["cluster_datatailor"], []).append(row)
    centres = {name: mean_vector(members) for name, members in clusters.items()}
    near = {
        name: math.fsum(math.exp(cosine(centres[name], centres[other])) for other in centres if other != name)
        / (len(centres) - 1)
        if len(centres) > 1
        else 1.0
        for name in centres
    }
    mean_near = math.fsum(near.values()) / len(near)
    for name, members in clusters.items():
        table = [[math.dist(a["emb_last_token"], b["emb_last_token"]) for b in members] for a in members]
        mean = math.fsum(map(math.fsum, table)) / len(members)
        for row, line in zip(members, table, strict=True):
            own = row["spectrum_entropy"]
            pairs = zip(line, members, strict=True)
            weighted = math.fsum(distance * other["spectrum_entropy"] for distance, other in pairs)
            yield row, own, weighted / mean if mean else 0.0, near[name] / mean_near * own


def ranked(scored, at):
    """{row: number of rows of the source with a lower value}; of equal ones the lower key ranks higher."""
    order = sorted(scored, key=lambda entry: (round(entry[at], 9), -entry[0]["key"]))
    return {entry[0]["row"]: place for place, entry in enumerate(order)}


def quotas(weights, sizes, budget):
    """Largest remainders by weight; what a full source cannot take goes to the others."""
    full = set()
    while True:
        left = budget - sum(sizes[name] for name in full)
        total = math.fsum(weights[name] for name in weights if name not in full)
        exact = {name: left * weights[name] / total for name in weights if name not in full}
        over = {name for name in exact if exact[name] >= sizes[name]}
        if not over:
            break
        full |= over
        if len(full) == len(sizes):
            return dict(sizes)
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    missing = left - sum(counts.values())
    for name in sorted(exact, key=lambda name: (-round(exact[name] - counts[name], 9), name))[:missing]:
        counts[name] += 1
    return counts | {name: sizes[name] for name in full}


def oracle(rows, budget, params):
    """By source: a quota by size and squared mean of the largest share, then the best mean of ranks."""
    sources = {}
    for row in sorted(rows, key=lambda row: row["source"]):
        sources.setdefault(row["source"], []).append(row)
    means = {name: math.fsum(r["spectrum_top"] for r in own) / len(own) for name, own in sources.items()}
    sizes = {name: len(own) for name, own in sources.items()}
    counts = quotas({name: sizes[name] * means[name] ** 2 for name in sources}, sizes, budget)
    picks = []
    for name, own in sources.items():
        scored = list(values_of(own))
        inside, unique, typical = (ranked(scored, at) for at in (1, 2, 3))

        def value(row, inside=inside, unique=unique, typical=typical):
            turns, at = row["n_turns"], row["row"]
            return Fraction(turns * inside[at] + unique[at] + typical[at], turns + 2)

        best = sorted(own, key=lambda row: (-value(row), row["key"]))
        picks += [row["row"] for row in best[: counts[name]]]
    return picks


METHOD = Method("datatailor", make, oracle, ordered=False)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
