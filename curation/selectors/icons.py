"""ICONS: votes of the target tasks, each for the share of rows with the highest influence on it.

Source: Wu et al. (arXiv 2501.00654): influence = mean inner product of projected, normalised gradients with
those of a task's validation samples, under a model after a short warm-up and without Adam; a task votes for
the rows at or above its percentile; the rows with most votes win. Needs: gradient (influence_<task>). Cost
class: C5. Targeted: it sees validation data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import ColumnError, Selection, Selector, SelectorError, numbers
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.vote import rank_sums, votes

PREFIX = "influence_"


def select(
    columns: pa.Table, budget: int, seed: int, *, percent: float | None = None, tasks: list[str] | None = None
) -> Selection:
    """The `budget` rows with most votes, ties by mean rank over the tasks, then by the hash of (seed, id).

    Every task (`tasks`; default: all columns influence_*) votes for the rows at or above the value that
    floor(`percent` % of n) of the n candidates reach; the default percent is the budget's share of n. With a
    fixed `percent` subsets are nested. Text-only rows are treated like all others. Rows that lack the
    influence on any of the tasks cannot be picked (`missing_value`). Reason: votes, mean_rank (1 = highest).
    Raises ColumnError, BudgetError, SelectorError.
    """
    names, values = influences(columns, tasks)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values).all(axis=0))
    if percent is not None and not 0 < percent <= 100:
        raise SelectorError(f"percent must be above 0 and at most 100, got {percent}")
    inside = values[:, candidates.rows]
    share = candidates.budget / len(candidates.rows) if percent is None else percent / 100
    count, ranks = votes(inside, share), rank_sums(inside)
    places = np.lexsort((ranks, -count))[: candidates.budget]
    reason = {"votes": count[places].astype(np.int32), "mean_rank": ranks[places] / (2 * len(names))}
    return candidates.selection(columns, places, {"without_vote": int((count[places] == 0).sum())}, **reason)


def influences(
    columns: pa.Table, tasks: list[str] | None, prefix: str = PREFIX
) -> tuple[list[str], np.ndarray]:
    """(tasks, float64[t, n]): the columns `prefix`<task>, NaN where missing. Raises ColumnError."""
    named = (
        sorted(c.removeprefix(prefix) for c in columns.column_names if c.startswith(prefix))
        if tasks is None
        else list(tasks)
    )
    if not named:
        raise ColumnError(f"{prefix}*", f"no column {prefix}<task>, only {', '.join(columns.column_names)}")
    return named, np.stack([numbers(columns, f"{prefix}{task}") for task in named])


SELECTOR = Selector(select, needs=("gradient",), cost="C5", targeted=True)
