"""OnceSelect: from each cluster twice its quota that a classifier is least sure of, thinned by a k-DPP.

Source: OnceSelect, first called OFA (arXiv 2605.26761), its released code in words. z = unit vector of [CLIP
image; mean over turns of CLIP text], k-means with K = 128; a small gated classifier learns the clusters from
the rows nearest to each centroid (signal once_select); quota by size of the cluster, candidates are twice as
many rows with the lowest confidence, quality q = 1 - rank / n, and a k-DPP with the kernel sqrt(q_i q_j) (1 +
cos) / 2 picks in random blocks of at most 128. Needs: once_select, embedding_clip_turns, cluster_once_select.
Cost class: C1 (the classifier reads vectors only). Blind. 665,000 rows at 15 % take about two minutes on one
core; the k-DPPs' share grows with the budget.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, SelectorError, numbers
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import Lookup, joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.kdpp import MOST, sample
from curation.selectors.primitives.quota import at_least_one, quota
from curation.selectors.signal_columns import columns_read

_MIX = np.uint64(0x9E3779B97F4A7C15)


def reads(
    column: str = "once_confidence",
    vectors: str = "emb_clip_turns",
    cluster: str = "once_select",
    **_: object,
) -> tuple[str, ...]:
    """The confidence, the vectors and their clusters."""
    return columns_read(column, vectors, f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    column: str = "once_confidence",
    vectors: str = "emb_clip_turns",
    cluster: str = "once_select",
    over: float = 2.0,
    block: int = MOST,
    text_only: str | None = "keep",
) -> Selection:
    """From each cluster_<cluster> its quota: a k-DPP among the ceil(`over` · quota) least confident rows.

    Quota: its share by size rounded down, at least one row, the rest by largest remainders; what the raised
    ones take too much comes from the largest numbers (a reading). Rank 0 is the lowest `column`; n is the
    number of candidates of the cluster. They are put into random blocks of at most `block` (<= 128), each
    with its share of the quota by size, largest remainders (a reading). The kernel of the k-DPP has 1e-6
    added to its diagonal, so that copies cannot make a sample impossible. Its random numbers, the blocks and
    all ties come from the hash of (seed, id). Text-only rows: "keep" (a reading: they have no image vector)
    gives them their share of the budget at random, "exclude" leaves them out, None treats them like all
    others. Rows without confidence, vector or cluster cannot be picked (`missing_value`). Reason: cluster,
    confidence. Raises ColumnError, BudgetError, SelectorError.
    """
    if not over >= 1 or math.isinf(over) or not 1 <= block <= MOST:
        raise SelectorError(
            f"over must be at least 1 and finite, block 1 to {MOST}, got over={over}, block={block}"
        )
    confidence, clusters = numbers(columns, column), numbers(columns, f"cluster_{cluster}")
    units, known = joined(columns, vectors)
    usable = known & np.isfinite(confidence) & np.isfinite(clusters)
    candidates = find_candidates(columns, budget, seed, usable, text_only=text_only)
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    sizes = np.bincount(codes)
    counts = at_least_one(sizes, candidates.budget)
    value, noise, quality = confidence[candidates.rows], _noise(candidates.keys), np.empty(len(codes))
    picks, turns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for members in members_of(codes):
        count = int(counts[codes[members[0]]])
        size = min(len(members), math.ceil(round(over * count, 6)))
        ranked = members[np.argsort(value[members], kind="stable")[:size]]
        quality[ranked] = 1.0 - np.arange(size) / max(size, 1)
        picks.append(_thinned(np.sort(ranked), candidates.rows, quality, noise, units, count, block))
        turns.append(np.arange(count))
    places = np.concatenate(picks)[np.argsort(np.concatenate(turns), kind="stable")]
    picked = clusters[candidates.rows[places]].astype(np.int32)
    return candidates.selection(columns, places, cluster=picked, confidence=value[places])


def _noise(keys: np.ndarray) -> np.ndarray:
    """float64[n] in [0, 1) from the hashes: a product's high bits do not follow their order."""
    return ((keys * _MIX) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _thinned(
    places: np.ndarray,
    rows: np.ndarray,
    quality: np.ndarray,
    noise: np.ndarray,
    units: Lookup,
    count: int,
    block: int,
) -> np.ndarray:
    """int64[count] of `places` (in the order of the hash): a k-DPP sample of each block of them."""
    blocks = [places[start : start + block] for start in range(0, len(places), block)]
    shares = quota(np.array([len(part) for part in blocks]), np.zeros(len(blocks)), count)
    picks = [np.empty(0, np.int64)]
    for part, share in zip(blocks, shares.tolist(), strict=True):
        if share == len(part):
            picks.append(part)
        elif share:
            vectors = units(rows[part])
            root = np.sqrt(quality[part])
            # exact: entries of the vectors are multiples of 2^-24 (primitives/cosine.py)
            kernel = np.outer(root, root) * ((1.0 + vectors @ vectors.T) / 2.0)
            picks.append(part[sample(kernel, share, noise[part])])
    return np.concatenate(picks)


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C1",
    published=Published(
        rule="quota of each of 128 clusters by size; of the 2 x quota rows with the lowest confidence of a "
        "classifier, a k-DPP of sqrt(q_i q_j)(1 + cos)/2, q = 1 - rank/n",
        source="arXiv 2605.26761, released code in words",
    ),
)
