"""InstructionGPT-4: the highest predicted value in spectral clusters of images, in proportion to their size.

Source: Wei et al. (arXiv 2308.12067): a regressor learns, from models trained on subsets of the pool, what a
sample is worth; each of 10 spectral clusters shortlists its best rows, a few more than needed, and the best
of the shortlist are taken. Needs: value (curation/signals/subset_value/producer.py), cluster_spectral. Cost
class: C4 (a training run per probed subset). Targeted: the probes may be evaluated on a target's validation
data.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, numbers
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.pick import pick_by_group, top
from curation.selectors.primitives.quota import quota
from curation.selectors.signal_columns import columns_read


def reads(cluster: str = "spectral", column: str = "value", **_: object) -> tuple[str, ...]:
    """The predicted value and the clusters."""
    return columns_read(column, f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    cluster: str = "spectral",
    column: str = "value",
    over: float = 1.02,
    text_only: str | None = "exclude",
) -> Selection:
    """A shortlist of the best of each cluster, in proportion to size; of it the `budget` highest.

    The shortlist has ceil(`over` · budget) rows (at most all), shared over cluster_<cluster> by size with
    largest remainders, and at least one of each cluster (published: 204 for 200, hence 1.02, each share
    rounded down). `over=1` keeps the proportions, except for clusters too small for more than that one row; a
    large `over` is plain top-k. Ties by the hash of (seed, id), never by a rounded value. Rows without value
    or cluster cannot be picked (`missing_value`). Text-only rows, which have no image cluster: "exclude"
    leaves them out, "keep" gives them their share of the budget at random, None treats them like all others.
    Note `shortlist`: its size. Reason: cluster, score. Raises ColumnError, BudgetError, SelectorError.
    """
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
    counts = np.maximum(quota(sizes, np.zeros(len(sizes)), target), 1)
    shortlist = pick_by_group(candidates.rows, codes, counts, top, candidates.keys, score=score)
    places = shortlist[np.lexsort((shortlist, -score[shortlist]))][: candidates.budget]
    picked = clusters[candidates.rows[places]].astype(np.int32)
    return candidates.selection(
        columns, places, {"shortlist": len(shortlist)}, cluster=picked, score=score[places]
    )


SELECTOR = Selector(select, reads=reads, cost="C4", targeted=True)
