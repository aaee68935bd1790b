"""ARDS: rows near those that a small change throws off most, above all in groups of high loss.

Source: ARDS (NeurIPS 2025) and its released code, of which this follows the formulas. Groups: spherical
k-means of phi inside each format of question (caption, choice, region, ...); a group's hard rows: those whose
loss changes most under a noised image or, in choice questions, under other letters and order of the options.
Needs: embedding_ards, cluster_ards, necessity, perturbed_losses. Cost class: C4 (a model after a warm-up).
Blind.
"""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    BudgetError,
    Published,
    Selection,
    Selector,
    SelectorError,
    numbers,
    one_of,
)
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept
from curation.selectors.primitives.cosine import Lookup, cosines, joined
from curation.selectors.primitives.graph import members_of
from curation.selectors.signal_columns import columns_read

_BLOCK = 1 << 11
SMALLEST = 3
"""Rows of the smallest group that has hard rows (released code)."""


def reads(vectors: str = "emb_ards", cluster: str = "ards", **_: object) -> tuple[str, ...]:
    """The vectors, their clusters, the loss and the losses under perturbation."""
    return columns_read(vectors, f"cluster_{cluster}", "nll", "nll_noised", "nll_permuted")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    vectors: str = "emb_ards",
    cluster: str = "ards",
    hard: int = 50,
    similarity: str = "max",
    text_only: str | None = None,
) -> Selection:
    """The highest sum over groups g of w_g · (highest cosine of phi to the hard rows of g).

    phi: `vectors`. In each cluster_<cluster> of at least three rows the `hard` rows with the highest |nll -
    nll_noised|, for choice questions (those with a value) |nll - nll_permuted|, are its hard rows. w: softmax
    over the groups of their mean loss, of choice questions both losses. `similarity`: "max" (published) or
    "mean" over the hard rows (picks overlap by 0.41, Jaccard, on the frozen table of tests/parity). Hard rows
    themselves come last (the released code removes them and returns fewer rows where nothing else is left).
    Ties by the hash of (seed, id).

    Readings of ours: the released code draws rows of each group before it perturbs them, ours perturbs all;
    it takes choice questions that the model answers wrongly in some order of the options, and their copies
    besides, ours the change of one order's loss. Rows without vector cannot be picked (`missing_value`).
    `text_only`: None treats rows without image as all others (published), "keep" gives them their share at
    random, "exclude" leaves them out. Cost: rows · hard rows · length of phi: at 665,000 rows, 60 groups and
    8,192 entries some 3e13 products, about 12 minutes of one core by its 33 s at 30,000 rows. Notes: groups,
    hard_rows, hard_picked. Reason: score. Raises ColumnError, BudgetError, SelectorError.
    """
    one_of("similarity", similarity, ("max", "mean"))
    if hard < 1:
        raise SelectorError(f"hard must be at least 1, got {hard}")
    units, known = joined(columns, vectors)
    losses = [numbers(columns, name) for name in ("nll", "nll_noised", "nll_permuted")]
    clusters = numbers(columns, f"cluster_{cluster}")
    eligible = np.flatnonzero(known & ((numbers(columns, "n_images") != 0) if text_only else True))
    if not _hard_rows(clusters, losses, eligible, hard):
        raise BudgetError(budget, 0, "no group has rows with the losses for a change under perturbation")
    candidates = find_candidates(columns, budget, seed, known, text_only=text_only)
    rows = candidates.rows
    groups = _hard_rows(clusters, losses, rows, hard)
    weights = _weights([_mean_loss(losses, rows[places]) for places in groups])
    score = _nearness(units, rows, groups, weights, similarity)
    is_hard = np.zeros(len(rows), bool)
    is_hard[np.concatenate([np.empty(0, np.int64), *groups])] = True
    places = np.lexsort((np.arange(len(rows)), -score, is_hard))[: candidates.budget]
    notes = {
        "groups": len(groups),
        "hard_rows": int(is_hard.sum()),
        "hard_picked": int(is_hard[places].sum()),
    }
    return candidates.selection(columns, places, notes, score=score[places])


def _hard_rows(
    clusters: np.ndarray, losses: Sequence[np.ndarray], rows: np.ndarray, count: int
) -> list[np.ndarray]:
    """Places in `rows` of each group's hard rows, the largest change first; groups without any are left out.

    losses: plain, under a noised image, with permuted options, each float64[all rows].
    """
    nll, noised, permuted = (loss[rows] for loss in losses)
    change = np.abs(nll - np.where(np.isfinite(permuted), permuted, noised))
    in_group = np.flatnonzero(np.isfinite(clusters[rows]))
    found = []
    for members in members_of(np.unique(clusters[rows[in_group]], return_inverse=True)[1].reshape(-1)):
        places = in_group[members]
        changed = places[np.isfinite(change[places])]
        if len(places) >= SMALLEST and len(changed):
            found.append(changed[np.argsort(-change[changed], kind="stable")[:count]])
    return found


def _mean_loss(losses: Sequence[np.ndarray], rows: np.ndarray) -> float:
    """Mean of the rows' losses, of choice questions also of those with permuted options."""
    values = np.concatenate([losses[0][rows], losses[2][rows]])
    known = values[np.isfinite(values)]
    return math.fsum(known.tolist()) / len(known)


def _weights(losses: list[float]) -> list[float]:
    """Softmax."""
    raised = [math.exp(loss - max(losses)) for loss in losses]
    return [value / math.fsum(raised) for value in raised]


def _nearness(
    units: Lookup, rows: np.ndarray, groups: list[np.ndarray], weights: list[float], similarity: str
) -> np.ndarray:
    """float64[n]: sum over the groups of weight · highest (or mean) cosine to its hard rows."""
    total = np.zeros(len(rows))
    sizes = np.array([len(places) for places in groups], np.int64)
    if not len(sizes):
        return total
    first, targets = np.cumsum(sizes) - sizes, units(rows[np.concatenate(groups)])
    for start in range(0, len(rows), _BLOCK):
        near = cosines(units(rows[start : start + _BLOCK]), targets)
        # multiples of 2^-18: their sums are exact
        own = (np.maximum if similarity == "max" else np.add).reduceat(near, first, axis=1)
        # one by one: the order of the additions decides the last bits
        for place, weight in enumerate(weights):
            share = 1 if similarity == "max" else sizes[place]
            total[start : start + _BLOCK] += weight * (own[:, place] / share)
    return total


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C4",
    nested=nested_unless_kept,
    published=Published(
        "highest sum over groups of softmax(mean loss of its hard rows) · highest cosine of phi to them; "
        "hard: the 50 rows whose loss a perturbation changes most",
        "ARDS (NeurIPS 2025), released code (read); all rows perturbed, one order of options (readings)",
        {"published": {}, "mean": {"similarity": "mean"}},
        {"mean": "mean in place of the highest cosine (an option of the released code)"},
    ),
)
