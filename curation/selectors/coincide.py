"""COINCIDE: more rows from transferable and sparse clusters; inside a cluster, greedy MMD.

Source: Lee et al. (arXiv 2406.10995): clusters of a small VLM's activations; transferability S_k = mean
cosine of centroid k to the other centroids, density D_k = mean Gaussian kernel inside cluster k, weight
softmax(S_k / (tau D_k)). Needs: embedding and cluster_activation (or others). Cost class: C2. Blind.
"""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, numbers
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import Lookup, cosines, joined, mean_direction
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.pick import kernel, pick_by_group, refuse_large, rule
from curation.selectors.signal_columns import columns_read, names_of

VECTORS = ("emb_image", "emb_text")
SAME = 0.9
"""Cosine above which two centroids count as one split cluster, not as transfer (as in the released code)."""
_BLOCK = 1024


def reads(
    vectors: str | Sequence[str] = VECTORS,
    transfer: str = "emb_text",
    cluster: str = "activation",
    **_: object,
) -> tuple[str, ...]:
    """The vectors and their clusters."""
    return columns_read(*names_of(vectors), transfer, f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    cluster: str = "activation",
    vectors: str | Sequence[str] = VECTORS,
    transfer: str = "emb_text",
    tau: float = 0.1,
    sigma: float = 1.0,
    text_only: str | None = "keep",
) -> Selection:
    """From each cluster_<cluster> a number by its weight: the rows that best match its distribution.

    `transfer` is the vector column for S_k (the language half; cosines above 0.9 count 0), `vectors` those,
    joined, for D_k and the picks; a centroid is the mean direction of a cluster's rows. Clusters are visited
    by descending weight: each gets round(left · weight / weights still to come), at most its size; if budget
    remains, clusters with rows left are visited again. Picks minimise MMD^2 (Gaussian kernel, width `sigma`),
    greedily; ties by the hash of (seed, id). D_k of a single row is 1. Text-only rows: "keep" (default) gives
    them their share of the budget at random, "exclude" leaves them out; pass `text_only=None` if they have
    the vectors. Rows with images but without vector or cluster cannot be picked (`missing_value`). Reason:
    cluster, transferability, density. Raises ColumnError, BudgetError, SizeError, SelectorError.
    """
    if not tau > 0 or not sigma > 0:
        raise SelectorError(f"tau and sigma must be positive, got tau={tau}, sigma={sigma}")
    units, known = joined(columns, vectors)
    language, has_language = joined(columns, transfer)
    clusters = numbers(columns, f"cluster_{cluster}")
    candidates = find_candidates(
        columns, budget, seed, known & has_language & np.isfinite(clusters), text_only=text_only
    )
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    members = members_of(codes)
    refuse_large(max(map(len, members), default=0))  # before any vector is read
    centroids = [mean_direction(language(candidates.rows[m])) for m in members]
    transferable = transferability(np.concatenate(centroids)) if members else np.empty(0)
    density = np.array([_density(units, candidates.rows[m], sigma) for m in members])
    counts = allocate(np.bincount(codes), transferable / (tau * density), candidates.budget)
    places = pick_by_group(
        candidates.rows, codes, counts, rule("mmd", sigma=sigma), candidates.keys, units=units
    )
    picked, code = candidates.rows[places], codes[places]
    reason = {
        "cluster": clusters[picked].astype(np.int32),
        "transferability": transferable[code],
        "density": density[code],
    }
    return candidates.selection(columns, places, {"clusters_used": int((counts > 0).sum())}, **reason)


def transferability(centroids: np.ndarray) -> np.ndarray:
    """float64[k]: mean cosine of unit centroids [k, d] to the others, above 0.9 as 0; 0 for a single one."""
    k, total = len(centroids), np.zeros(len(centroids))
    for start in range(0, k, _BLOCK):
        cosine = cosines(centroids[start : start + _BLOCK], centroids)
        total[start : start + _BLOCK] = np.where(cosine > SAME, 0.0, cosine).sum(axis=1)
    return total / max(k - 1, 1)


def _density(units: Lookup, rows: np.ndarray, sigma: float) -> float:
    n = len(rows)
    if n == 1:
        return 1.0
    block = units(rows)
    total = sum(
        int(kernel(block[start : start + _BLOCK], block, sigma).sum()) for start in range(0, n, _BLOCK)
    )
    return max(
        (total * 2.0**-24 - n) / (n * (n - 1)), 2.0**-24
    )  # never 0: under a narrow kernel no row may have a near neighbour


def allocate(sizes: np.ndarray, lift: np.ndarray, budget: int) -> np.ndarray:
    """int64[k]: by descending `lift`, each cluster gets round(left · its share of softmax(lift) to come).

    At most `sizes`, whose sum must be at least `budget`; in sum exactly `budget`. Ties go to the earlier
    cluster.
    """
    counts, left = np.zeros(len(sizes), np.int64), budget
    order = np.argsort(-np.round(lift, 9), kind="stable")
    while left:
        open_ = order[counts[order] < sizes[order]]
        for at, share in zip(open_.tolist(), _shares(lift[open_]), strict=True):
            more = min(int(sizes[at] - counts[at]), math.floor(round(left * share, 9) + 0.5))
            counts[at] += more
            left -= more
    return counts


def _shares(lift: np.ndarray) -> list[float]:
    """For each of descending `lift`: exp(lift) over the sum of exp(lift) from it on, without overflow."""
    rest, shares = 0.0, []
    for here, after in zip(lift[::-1].tolist(), [-math.inf, *lift[:0:-1].tolist()], strict=True):
        rest = 1.0 + math.exp(min(after - here, 0.0)) * rest
        shares.append(1.0 / rest)
    return shares[::-1]


SELECTOR = Selector(select, reads=reads, cost="C2")
