"""DataTailor: more rows from simple sources; in each those that are informative, unique and representative.

Source: Yu et al. (arXiv 2412.06293), and the released code, of which this follows the formulas. Per row, of
the singular values of its token states: s, the entropy of their shares, and t, the largest share. Clusters:
Ward's, inside a source. Needs: spectrum, embedding_last_token, cluster_datatailor. Cost class: C2, and memory
quadratic in a source for the clusters. Blind.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, numbers, one_of, texts
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import exp, unit
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import pick_by_group, refuse_large, top
from curation.selectors.primitives.quota import apportion
from curation.selectors.primitives.raw import RawVectors, distances, raw
from curation.selectors.signal_columns import columns_read

_BLOCK = 1024
_FINE = 2.0**40
"""Steps of exp(cosine) in 1: sums of them are exact."""
_WEIGHT_BITS = 24
"""Bits of the largest entropy as a whole number."""


def reads(vectors: str = "emb_last_token", cluster: str = "datatailor", **_: object) -> tuple[str, ...]:
    """The spectrum's two numbers, the vectors and their clusters."""
    return columns_read("spectrum_entropy", "spectrum_top", vectors, f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    vectors: str = "emb_last_token",
    cluster: str = "datatailor",
    normalise: str = "rank",
    text_only: str | None = None,
) -> Selection:
    """From each source a number ∝ size · (mean t)^2: the highest (R · I + U + P) / (R + 2), R = turns.

    Informativeness I = s. Uniqueness U_i = sum over the rows j of its cluster of |x_i - x_j| · s_j, divided
    by the cluster's mean sum of distances. Representativeness P_i = s_i · the mean, over the other clusters
    of the source, of exp(cosine of the two mean vectors), divided by the mean of that over the source's
    clusters. `normalise`: "rank" (released code) turns each of I, U and P into its rank inside the source /
    size (0 = lowest; ties by the hash of (seed, id), for the released code by its sort); "none" takes them as
    they are, as the paper's text reads: on the frozen table of tests/parity the picks overlap by 0.74
    (Jaccard).

    Where the released code has no answer: a cluster without distances has U = 0, in a source of one cluster
    P_i = s_i. It rounds the numbers of rows to the nearest; here they are largest remainders, at most the
    size. Vectors `vectors` have their own length (the released ones are taken before the final norm). Rows
    without spectrum, vector or cluster cannot be picked (`missing_value`); `text_only`: None treats rows
    without image as all others (published), "keep" gives them their share at random, "exclude" leaves them
    out. Reason: cluster, score. Raises ColumnError, BudgetError, SelectorError, SizeError.
    """
    one_of("normalise", normalise, ("rank", "none"))
    entropy, largest = numbers(columns, "spectrum_entropy"), numbers(columns, "spectrum_top")
    turns, clusters = numbers(columns, "n_turns"), numbers(columns, f"cluster_{cluster}")
    points, known = raw(columns, vectors)
    usable = known & np.isfinite(entropy) & np.isfinite(largest) & np.isfinite(turns) & np.isfinite(clusters)
    candidates = find_candidates(columns, budget, seed, usable, text_only=text_only)
    rows = candidates.rows
    sources, names = groups(texts(columns, "source"))
    source = sources[rows]
    cells, cell = np.unique(np.stack([source, clusters[rows]]), axis=1, return_inverse=True)
    members, cell = members_of(cell.reshape(-1)), cell.reshape(-1)
    refuse_large(max(map(len, members), default=0))  # before any vector is read
    unique = _uniqueness(members, points, rows, entropy[rows])
    typical = _typicality(members, cells[0], points, rows)[cell] * entropy[rows]
    terms = [entropy[rows], unique, typical]
    sizes = np.bincount(source, minlength=len(names))
    if normalise == "rank":
        terms = [_ranks(term, source) for term in terms]
    # whole ranks until here: equal scores are equal numbers
    score = (turns[rows] * terms[0] + terms[1] + terms[2]) / (turns[rows] + 2)
    score = score / sizes[source] if normalise == "rank" else np.round(score, 9)
    shares = _shares(source, largest[rows], len(names))
    counts = apportion(sizes, shares, np.zeros(len(names)), candidates.budget)
    places = pick_by_group(rows, source, counts, top, candidates.keys, score=score)
    picked = rows[places]
    return candidates.selection(
        columns, places, cluster=clusters[picked].astype(np.int32), score=score[places]
    )


def _shares(source: np.ndarray, largest: np.ndarray, count: int) -> np.ndarray:
    """float64[count]: rows of each source · (mean top share of the spectrum)^2; positive if it has any."""
    shares = np.zeros(count)
    for places in members_of(source):
        mean = max(math.fsum(largest[places].tolist()) / len(places), 1e-6)
        shares[source[places[0]]] = len(places) * mean * mean
    return shares


def _uniqueness(
    members: list[np.ndarray], points: RawVectors, rows: np.ndarray, entropy: np.ndarray
) -> np.ndarray:
    """float64[n]: sum of distance · entropy over the own cluster, divided by its mean sum of distances."""
    found = np.zeros(len(rows))
    exponent = math.frexp(float(np.abs(entropy).max(initial=0.0)))[1]
    weights = np.rint(np.ldexp(entropy, _WEIGHT_BITS - exponent)).astype(np.int64)
    for places in members:
        block, n = points(rows[places]), len(places)
        # Distances in whole steps: their sum with 24-bit weights then fits 62 bits, and no order matters.
        spread = points.bits + 2 + math.log2(max(block.shape[1], 1)) / 2
        scale = math.ldexp(1.0, 38 - math.ceil(math.log2(n)) - math.ceil(spread)) if n > 1 else 1.0
        weighted, total = np.zeros(n, np.int64), 0
        for start in range(0, n, _BLOCK):
            steps = np.rint(distances(block[start : start + _BLOCK], block) * scale).astype(np.int64)
            weighted[start : start + _BLOCK] = steps @ weights[places]
            total += int(steps.sum())
        if total:
            found[places] = np.ldexp(weighted / (total / n), exponent - _WEIGHT_BITS)
    return found


def _typicality(
    members: list[np.ndarray], source: np.ndarray, points: RawVectors, rows: np.ndarray
) -> np.ndarray:
    """float64[cells]: mean exp(cosine) of a cell's mean vector to those of its source, by the source's mean.

    1 for the only cell of a source. `source` float64[cells] ascends.
    """
    found = np.ones(len(members))
    for own in members_of(source):
        if len(own) == 1:
            continue
        means = np.concatenate([unit(points(rows[members[c]]).sum(axis=0, keepdims=True)) for c in own])
        near = np.empty(len(own))
        for start in range(0, len(own), _BLOCK):
            # unit vectors on the grid: their products are exact, unlike those of the mean vectors
            steps = np.rint(exp(means[start : start + _BLOCK] @ means.T) * _FINE).astype(np.int64)
            at = np.arange(len(steps))
            steps[at, start + at] = 0
            near[start : start + _BLOCK] = steps.sum(axis=1) / _FINE / (len(own) - 1)
        found[own] = near / (math.fsum(near.tolist()) / len(own))
    return found


def _ranks(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """float64[n]: number of rows of the own source that are lower; of equal ones those later in the hash."""
    order = np.lexsort((-np.arange(len(values)), values, source))
    ranks = np.empty(len(values))
    sizes = np.bincount(source)
    ranks[order] = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C2",
    published=Published(
        "per source ∝ n · (mean top share of the spectrum)^2: highest (R · I + U + P) / (R + 2) of ranks; "
        "entropy, weighted distances in Ward clusters, exp cosine between them",
        "arXiv 2412.06293 and its released code (read)",
        {"published": {}, "unranked": {"normalise": "none"}},
        {"unranked": "the three terms as the paper's text reads, without the released code's ranks"},
    ),
)
