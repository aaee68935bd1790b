"""InstructionGPT-4: the highest predicted value in spectral clusters of images, in proportion to their size.

Source: Wei et al. (arXiv 2308.12067): a regressor learns, from models trained on subsets of the pool, what a
sample is worth; each of 10 spectral clusters shortlists its best rows, a few more than needed, and the best
of the shortlist are taken. Needs: value (curation/signals/subset_value/producer.py), cluster_instructiongpt4.
Cost class: C4 (a training run per probed subset). Targeted: the probes may be evaluated on a target's
validation data.
"""

import math

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
from curation.selectors.primitives.pick import pick_by_group, top
from curation.selectors.primitives.quota import quota_by_group
from curation.selectors.signal_columns import columns_read


def reads(cluster: str = "instructiongpt4", column: str = "value", **_: object) -> tuple[str, ...]:
    """The predicted value and the clusters."""
    return columns_read(column, f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    cluster: str = "instructiongpt4",
    column: str = "value",
    over: float = 1.02,
    quota: str = "floor",
    text_only: str | None = "exclude",
) -> Selection:
    """A shortlist of the best of each cluster, in proportion to size; of it the `budget` highest.

    Of ceil(`over` · budget) rows (at most all; published: 204 for 200, hence 1.02) each cluster_<cluster>
    shortlists its share. `quota`: how the share is rounded. "floor": down, but to at least one row, as in the
    released code; where the shortlist is then shorter than the budget, the best of the others follow (note
    `beyond_shortlist`), while the release would select fewer rows. "remainders": largest remainders, and at
    least one row. On the frozen table of tests/parity the picks of the two overlap by 0.97 (Jaccard).
    The release ranks by the integer part of a value near 31, its cut after the decimal point, so that nearly
    all rows are equal and the order of its files decides; here the whole value does, and equal ones are
    ordered by the hash of (seed, id). `over=1` keeps the proportions; a large `over` is plain top-k. Rows
    without value or cluster cannot be picked (`missing_value`). Text-only rows, which have no image cluster:
    "exclude" leaves them out, "keep" gives them their share of the budget at random, None treats them like
    all others. Note `shortlist`: its size. Reason: cluster, score. Raises ColumnError, BudgetError,
    SelectorError.
    """
    one_of("quota", quota, ("floor", "remainders"))
    if not over >= 1 or math.isinf(over):
        raise SelectorError(f"over must be a finite number of at least 1, got {over}")
    value, clusters = numbers(columns, column), numbers(columns, f"cluster_{cluster}")
    candidates = find_candidates(
        columns, budget, seed, np.isfinite(value) & np.isfinite(clusters), text_only=text_only
    )
    score = value[candidates.rows]
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    sizes = np.bincount(codes)
    target = min(len(candidates.rows), math.ceil(round(over * candidates.budget, 6)))
    shares = sizes * target // len(candidates.rows) if quota == "floor" else quota_by_group(sizes, target)
    counts = np.maximum(shares, 1)
    shortlist = pick_by_group(candidates.rows, codes, counts, top, candidates.keys, score=score)
    others = np.setdiff1d(np.arange(len(score)), shortlist)
    ranked = [places[np.lexsort((places, -score[places]))] for places in (shortlist, others)]
    places = np.concatenate(ranked)[: candidates.budget]
    picked = clusters[candidates.rows[places]].astype(np.int32)
    notes = {
        "shortlist": len(shortlist),
        "beyond_shortlist": max(candidates.budget - len(shortlist), 0),
    }
    return candidates.selection(columns, places, notes, cluster=picked, score=score[places])


PUBLISHED = Published(
    rule="204 for 200 by cluster size, rounded down to at least one, the best of each; of them the best 200",
    source="arXiv 2308.12067, code, which ranks by the integer part of the value",
    variants={"published": {}, "remainders": {"quota": "remainders"}},
    differs={"remainders": "numbers of the clusters by largest remainders"},
)
SELECTOR = Selector(select, reads=reads, cost="C4", targeted=True, published=PUBLISHED)
