"""COINCIDE: more rows from transferable and sparse clusters; inside a cluster, greedy MMD.

Source: Lee et al. (arXiv 2406.10995, released code): spherical k-means of a small VLM's activations;
transferability S_k = mean cosine of centroid k (its language half) to the other centroids, those above 0.9
left out; density D_k = mean Gaussian kernel over all pairs of cluster k, each row with itself included;
weight softmax(S_k / (tau D_k)); clusters by descending weight, each gets its share of what is left of the
budget. Needs: embedding_tanh_attention and cluster_coincide (or others). Cost class: C2. Blind.

The variant "clean" leaves a row's pair with itself out of D_k, so that the size of a cluster does not count
as density, divides S_k by the number of all other centroids, so that near copies of a cluster lower it, and
rounds halves up instead of to even. Its picks and the published ones have Jaccard 0.94 on the frozen table of
tests/parity.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    SelectorError,
    numbers,
    one_of,
)
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import Lookup, cosines, joined, mean_direction
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.pick import Group, by_turns, kernel, mmd, mmd_of, refuse_large
from curation.selectors.signal_columns import columns_read, names_of

VECTORS = ("emb_tanh_attention_image", "emb_tanh_attention_text")
SAME = 0.9
"""Cosine above which two centroids count as one split cluster, not as transfer (as in the released code)."""
KEPT = 250_000_000
"""Most kernel values that are kept for the picks, 4 bytes each; of further clusters they are made again."""
_BLOCK, _UNREAD = 1024, np.empty(0)


def reads(
    vectors: str | Sequence[str] = VECTORS,
    transfer: str = "emb_tanh_attention_text",
    cluster: str = "coincide",
    **_: object,
) -> tuple[str, ...]:
    """The vectors and their clusters."""
    return columns_read(*names_of(vectors), transfer, f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    cluster: str = "coincide",
    vectors: str | Sequence[str] = VECTORS,
    transfer: str = "emb_tanh_attention_text",
    tau: float = 0.1,
    sigma: float = 1.0,
    text_only: str | None = "keep",
) -> Selection:
    """From each cluster_<cluster> a number by its weight: the rows that best match its distribution.

    `transfer` is the vector column for S_k (the language half), `vectors` those, joined, for D_k and the
    picks; a centroid is the mean direction of a cluster's rows. Clusters are visited by descending weight:
    each gets round(left · weight / weights still to come), at most its size; if budget remains, where the
    released code returns fewer rows, clusters with rows left are visited again. Picks minimise MMD^2
    (Gaussian kernel, width `sigma`), greedily; ties by the hash of (seed, id), of clusters by their number.
    `variant`: "published" or "clean", see above. S_k is 0 where every centroid is left out (a division by 0
    in the released code). Text-only rows: "keep" (default) gives them their share of the budget at random,
    for they have no image half (the released code shows its model a black image), "exclude" leaves them out;
    pass `text_only=None` if they have the vectors. Rows with images but without vector or cluster cannot be
    picked (`missing_value`). Reason: cluster, transferability, density. Raises ColumnError, BudgetError,
    SizeError, SelectorError.
    """
    one_of("variant", variant, ("published", "clean"))
    clean = variant == "clean"
    if not tau > 0 or not sigma > 0:
        raise SelectorError(f"tau and sigma must be positive, got tau={tau}, sigma={sigma}")
    units, known = joined(columns, vectors)
    _, has_language = joined(columns, transfer)
    clusters = numbers(columns, f"cluster_{cluster}")
    candidates = find_candidates(
        columns, budget, seed, known & has_language & np.isfinite(clusters), text_only=text_only
    )
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    members = members_of(codes)
    refuse_large(max(map(len, members), default=0))  # before any vector is read
    centre = _centre(columns, names_of(vectors), transfer)
    centroids, totals, kernels = _of_clusters(candidates.rows, members, units, centre, sigma)
    transferable = transferability(np.concatenate(centroids), clean) if members else np.empty(0)
    density = _density(np.array(totals), np.bincount(codes), clean)
    counts = allocate(np.bincount(codes), transferable / (tau * density), candidates.budget, clean)
    picks = [
        group[mmd(Group(candidates.keys[group], _UNREAD, units(candidates.rows[group])), count, sigma)]
        if kept is None
        else group[mmd_of(kept, count)]
        for group, kept, count in zip(members, kernels, counts.tolist(), strict=True)
        if count
    ]
    places = by_turns(picks)
    picked, code = candidates.rows[places], codes[places]
    reason = {
        "cluster": clusters[picked].astype(np.int32),
        "transferability": transferable[code],
        "density": density[code],
    }
    return candidates.selection(columns, places, {"clusters_used": int((counts > 0).sum())}, **reason)


def transferability(centroids: np.ndarray, clean: bool = False) -> np.ndarray:
    """float64[k]: mean cosine of unit centroids [k, d] to others, those above 0.9 left out; 0 for none.

    clean: those above 0.9 count as 0.
    """
    k, total, others = len(centroids), np.zeros(len(centroids)), np.zeros(len(centroids))
    for start in range(0, k, _BLOCK):
        cosine = cosines(centroids[start : start + _BLOCK], centroids)
        far = cosine <= SAME
        total[start : start + _BLOCK] = np.where(far, cosine, 0.0).sum(axis=1)
        others[start : start + _BLOCK] = far.sum(axis=1)
    return total / np.maximum(k - 1 if clean else others, 1)


def _centre(
    columns: pa.Table, names: Sequence[str], transfer: str
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(rows, their joined vectors `names`) -> the direction of the mean of their vectors `transfer`."""
    if transfer not in names:
        language, _ = joined(columns, transfer)
        return lambda rows, _: mean_direction(language(rows))
    ends = np.cumsum([0, *(columns[name].type.list_size for name in names)])
    at = list(names).index(transfer)
    return lambda _, block: mean_direction(block[:, ends[at] : ends[at + 1]])  # without reading them again


def _of_clusters(
    rows: np.ndarray,
    members: Sequence[np.ndarray],
    units: Lookup,
    centre: Callable[[np.ndarray, np.ndarray], np.ndarray],
    sigma: float,
) -> tuple[list[np.ndarray], list[int], list[np.ndarray | None]]:
    """Of each cluster its centroid, the sum of its kernel, and the kernel, as far as KEPT allows."""
    centroids, totals, kernels, room = [], [], [], KEPT
    for group in members:
        block = units(rows[group])
        total, kept = _kernels(block, sigma, keep=len(group) ** 2 <= room)
        room -= 0 if kept is None else len(group) ** 2
        centroids.append(centre(rows[group], block))
        totals.append(total)
        kernels.append(kept)
    return centroids, totals, kernels


def _kernels(block: np.ndarray, sigma: float, keep: bool) -> tuple[int, np.ndarray | None]:
    """(sum of the kernel over all pairs of unit vectors [n, d]; with `keep` int32[n, n], the kernel)."""
    n, total = len(block), 0
    kept = np.empty((n, n), np.int32) if keep else None
    for start in range(0, n, _BLOCK):
        values = kernel(block[start : start + _BLOCK], block, sigma)
        total += int(values.sum())
        if kept is not None:
            kept[start : start + _BLOCK] = values
    return total, kept


def _density(totals: np.ndarray, sizes: np.ndarray, clean: bool) -> np.ndarray:
    """float64[k]: mean kernel of each cluster, from its sum in units of 2^-24; 1 for a single row."""
    totals, n = totals * 2.0**-24, np.asarray(sizes, np.float64)
    mean = (totals - n) / np.maximum(n * (n - 1), 1) if clean else totals / (n * n)
    # never 0: under a narrow kernel no row may have a near neighbour
    return np.where(n == 1, 1.0, np.maximum(mean, 2.0**-24))


def allocate(sizes: np.ndarray, lift: np.ndarray, budget: int, clean: bool = False) -> np.ndarray:
    """int64[k]: by descending `lift`, each cluster gets round(left · its share of softmax(lift) to come).

    At most `sizes`, whose sum must be at least `budget`; in sum exactly `budget`. Ties go to the earlier
    cluster. Halves are rounded to even, or up if `clean`.
    """
    counts, left = np.zeros(len(sizes), np.int64), budget
    order = np.argsort(-np.round(lift, 9), kind="stable")
    while left:
        open_ = order[counts[order] < sizes[order]]
        for at, share in zip(open_.tolist(), _shares(lift[open_]), strict=True):
            wanted = round(left * share, 9)
            more = min(int(sizes[at] - counts[at]), math.floor(wanted + 0.5) if clean else round(wanted))
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


PUBLISHED = Published(
    rule="rows of a cluster ~ exp(transferability / (0.1 density)), the heaviest first; inside it greedily "
    "the lowest MMD^2",
    source="arXiv 2406.10995, code read",
    variants={"published": {"variant": "published"}, "clean": {"variant": "clean"}},
    differs={
        "clean": "density without a row's pair with itself; near copies of a cluster count 0; halves up"
    },
)
SELECTOR = Selector(select, reads=reads, cost="C2", published=PUBLISHED)
