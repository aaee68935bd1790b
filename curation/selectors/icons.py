"""ICONS: votes of the target tasks, each for the share of rows with the highest influence on it.

Source: Wu et al. (arXiv 2501.00654) and their released code: influence = mean inner product of projected,
normalised gradients with those of a task's validation samples (of MME the highest of its subtasks), under a
model after a short warm-up and without Adam; a task votes for the rows at or above its percentile; the rows
with most votes win. Needs: gradient (influence_<task>, raw_influence_<task>). Cost class: C5. Targeted: it
sees validation data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    ColumnError,
    Published,
    Selection,
    Selector,
    SelectorError,
    numbers,
    one_of,
)
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.vote import rank_sums, votes

PREFIX, RAW = "influence_", "raw_influence_"
"""Of unit validation gradients, and of ones that keep their length."""
UNNORMALISED = ("mme",)
"""Tasks whose validation gradients the released code does not normalise."""


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    percent: float | None = None,
    tasks: list[str] | None = None,
    unnormalised: list[str] | None = None,
) -> Selection:
    """The `budget` rows with most votes of the tasks (`tasks`; default: all columns influence_*).

    A task votes for the rows at or above its (100 - `percent`)-th percentile of the candidates; the default
    percent is the budget's share of them. With a fixed `percent` subsets are nested. `unnormalised`: tasks
    whose votes follow raw_influence_<task>, where long validation gradients count more; default: as the
    variant says.

    `variant`: "published" interpolates the percentile, takes the raw influence on MME (the task `mme`, if
    there is one), as only its validation gradients are not normalised in the release, and breaks ties of
    votes by the hash of (seed, id): the release cuts them by an unstable sort, and with ten tasks there are
    at most eleven different scores. "clean" normalises all, breaks ties by the mean rank over the tasks, then
    by the hash, and votes for floor(`percent` % of n) rows. On the frozen table of tests/parity the picks of
    the two overlap by 0.38 (Jaccard). Text-only rows are treated like all others. Rows that lack the
    influence on any of the tasks cannot be picked (`missing_value`). Reason: votes, mean_rank (1 = highest).
    Raises ColumnError, BudgetError, SelectorError.
    """
    one_of("variant", variant, ("published", "clean"))
    published = variant == "published"
    names, values = influences(columns, tasks)
    for name in _unnormalised(names, unnormalised, published):
        values[names.index(name)] = numbers(columns, f"{RAW}{name}")
    candidates = find_candidates(columns, budget, seed, np.isfinite(values).all(axis=0))
    if percent is not None and not 0 < percent <= 100:
        raise SelectorError(f"percent must be above 0 and at most 100, got {percent}")
    inside = values[:, candidates.rows]
    share = candidates.budget / len(candidates.rows) if percent is None else percent / 100
    count, ranks = votes(inside, share, percentile=published), rank_sums(inside)
    order = np.argsort(-count, kind="stable") if published else np.lexsort((ranks, -count))
    places = order[: candidates.budget]
    reason = {"votes": count[places].astype(np.int32), "mean_rank": ranks[places] / (2 * len(names))}
    return candidates.selection(columns, places, {"without_vote": int((count[places] == 0).sum())}, **reason)


def influences(
    columns: pa.Table, tasks: list[str] | None, prefix: str = PREFIX
) -> tuple[list[str], np.ndarray]:
    """(tasks, float64[t, n]): the columns `prefix`<task>, NaN where missing. Raises ColumnError."""
    named = tasks_of(columns, tasks, prefix)
    return named, np.stack([numbers(columns, f"{prefix}{task}") for task in named])


def tasks_of(columns: pa.Table, tasks: list[str] | None, prefix: str) -> list[str]:
    """`tasks`, or all that have a column `prefix`<task>, by name. Raises ColumnError where there is none."""
    named = (
        sorted(c.removeprefix(prefix) for c in columns.column_names if c.startswith(prefix))
        if tasks is None
        else list(tasks)
    )
    if not named:
        raise ColumnError(f"{prefix}*", f"no column {prefix}<task>, only {', '.join(columns.column_names)}")
    return named


def _unnormalised(names: list[str], requested: list[str] | None, published: bool) -> list[str]:
    """The tasks whose raw influence is read. Raises SelectorError for one that is no task."""
    if requested is None:
        return [name for name in UNNORMALISED if published and name in names]
    for name in requested:
        if name not in names:
            raise SelectorError(f"unnormalised names {name!r}, which is not one of {', '.join(names)}")
    return requested


PUBLISHED = Published(
    rule="most votes of the tasks, each for the rows at or above its percentile of influence",
    source="arXiv 2501.00654, code; ties are arbitrary there",
    variants={"published": {}, "clean": {"variant": "clean"}},
    differs={"clean": "ties by mean rank over the tasks; validation gradients of MME normalised too"},
)
SELECTOR = Selector(select, needs=("gradient",), cost="C5", targeted=True, published=PUBLISHED)
