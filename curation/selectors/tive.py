"""TIVE: sources by their mean gradient norm; inside a source, rows drawn by mean cosine to its gradients.

Source: Liu et al. (arXiv 2403.09559, released code): V_t = mean gradient norm of task t, n_t = budget · V_t /
sum V (whatever the task's size); v_i = mean over the task's samples of the cosine of gradients, the sample
itself included; n_t rows drawn without replacement with probability ~ exp(0.001 v_i), which is nearly
uniform. Gradients there are those of LoRA weights on attention after a warm-up on 8 % of the pool (as many
samples of each task, learning rate 2e-5): the recipe's `gradient.warmup`, whose share is drawn from the whole
pool. Needs: gradient (grad, grad_norm). Cost class: C5. Blind.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    SelectorError,
    bounded,
    texts,
)
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import GRID, Lookup, cosines, joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import pick_by_group, rule
from curation.selectors.primitives.quota import quota_by_group
from curation.selectors.signal_columns import columns_read

_BLOCK = 4096


def reads(vectors: str = "grad", norm: str = "grad_norm", **_: object) -> tuple[str, ...]:
    """The gradients and their lengths."""
    return columns_read(vectors, norm)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    scale: float = 0.001,
    vectors: str = "grad",
    norm: str = "grad_norm",
    text_only: str | None = None,
) -> Selection:
    """Rows from each source in proportion to its mean `norm`, drawn with probability ~ exp(scale · v).

    A task is a source. v is the mean cosine of a row's gradient (`vectors`) to those of its source. The draw
    is seeded: its noise is the hash of (seed, id). A source that is smaller than its share gives all its rows
    and the others get the rest by the same weights (`passed_on`: how many rows); the released code repeats
    rows there. Fractions go to the largest remainders, a reading of ours. Text-only rows are treated like all
    others (`text_only`: "exclude" or "keep"). Rows without gradient or norm (`missing_value`) or with a
    negative norm (`out_of_range`) cannot be picked. Reason: worth (of the source), score (v). Raises
    ColumnError, BudgetError, SelectorError.
    """
    if not (scale >= 0 and math.isfinite(scale)):
        raise SelectorError(f"scale must be finite and at least 0, got {scale}")
    units, known = joined(columns, vectors)
    norms, outside = bounded(columns, norm, low=0)
    usable = known & np.isfinite(norms)
    candidates = find_candidates(columns, budget, seed, usable, outside=outside, text_only=text_only)
    rows = candidates.rows
    codes, _ = groups(texts(columns, "source").take(pa.array(rows)))
    sizes = np.bincount(codes)
    worth = _mean_norms(norms[rows], codes)
    counts, passed_on = _counts(sizes, worth, candidates.budget)
    alike = typical_of_group(rows, codes, units)
    # a draw without replacement by these weights is the top of the log weights with Gumbel noise
    draw = rule("soft_sample", tau=1 / scale) if scale else rule("random")
    places = pick_by_group(rows, codes, counts, draw, candidates.keys, score=alike)
    reason = {"worth": worth[codes[places]], "score": alike[places]}
    return candidates.selection(columns, places, {"passed_on": passed_on}, **reason)


def typical_of_group(rows: np.ndarray, codes: np.ndarray, units: Lookup) -> np.ndarray:
    """float64[n]: mean cosine of each row to those of its group in `codes`, itself included; O(n d)."""
    alike = np.zeros(len(rows))
    for members in members_of(codes):
        blocks = [members[start : start + _BLOCK] for start in range(0, len(members), _BLOCK)]
        # sums of multiples of 2^-24 are exact; the mean is on the same grid again
        total = sum(units(rows[block]).sum(axis=0) for block in blocks)
        mean = np.rint(total / len(members) * GRID)[None, :] / GRID
        for block in blocks:
            alike[block] = cosines(units(rows[block]), mean)[:, 0]
    return alike


def _mean_norms(norms: np.ndarray, codes: np.ndarray) -> np.ndarray:
    # fsum is exact; any other sum of float64 would depend on the order of the rows
    return np.array([math.fsum(norms[group].tolist()) / len(group) for group in members_of(codes)])


def _counts(sizes: np.ndarray, worth: np.ndarray, budget: int) -> tuple[np.ndarray, int]:
    """(int64[k]: rows of each source, how many rows a full source passed on)."""
    if not budget:
        return np.zeros(len(sizes), np.int64), 0
    weights = worth if worth.any() else np.ones(len(worth))
    held = int(sizes[weights > 0].sum())
    counts = quota_by_group(sizes, min(budget, held), allocation="explicit", shares=weights)
    wanted = quota_by_group(
        np.where(weights > 0, budget, sizes), budget, allocation="explicit", shares=weights
    )
    passed_on = int(np.maximum(wanted - sizes, 0).sum())
    if budget > held:  # only sources without any gradient are left
        left = np.where(weights > 0, 0, sizes)
        counts = counts + quota_by_group(left, budget - held)
    return counts, passed_on


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C5",
    published=Published(
        "rows of a task ~ its mean gradient norm; inside it a draw ~ exp(0.001 x mean cosine)",
        "arXiv 2403.09559, released code; rows that it repeats are passed on",
    ),
)
