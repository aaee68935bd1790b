"""LESS: the highest influence on any one target task, max over tasks of the mean gradient similarity.

Source: Xia et al. (arXiv 2402.04333): cosine of projected LoRA gradients, mean over the validation samples of a task,
maximum over tasks. Needs: gradient (influence_<task>). Cost class: C5. Targeted: it sees validation data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection
from curation.selectors.icons import influences
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import candidates

NEEDS: tuple[str, ...] = ("gradient",)
COST, TARGETED, NESTED = "C5", True, True


def select(columns: pa.Table, budget: int, seed: int, *, tasks: list[str] | None = None) -> Selection:
    """The `budget` rows whose highest influence_<task> is highest, ties by the hash of (seed, id).

    `tasks`: which (default: all columns influence_*). Text-only rows are rows like others: a gradient needs no image.
    Rows that lack the influence on any of the tasks cannot be picked (`missing_value`). Reason: the task, and its
    influence as score. Raises ColumnError, BudgetError.
    """
    names, values = influences(columns, tasks)
    found = candidates(columns, budget, seed, np.isfinite(values).all(axis=0))
    inside = values[:, found.rows]
    places = band(inside.max(axis=0), found.budget, "top")
    best = inside[:, places].argmax(axis=0)
    return found.selection(columns, places, task=pa.array(names).take(pa.array(best)), score=inside[best, places])
