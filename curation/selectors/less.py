"""LESS: the highest influence on any one target task, max over tasks of the mean gradient similarity.

Source: Xia et al. (arXiv 2402.04333): cosine of projected LoRA gradients (for the pool, Adam updates), summed
over the checkpoints of a warm-up weighted by their learning rates; mean over the validation samples of a
task, maximum over tasks. Needs: gradient_adam (adam_influence_<task>). Cost class: C5. Targeted: it sees
validation data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector
from curation.selectors.icons import PREFIX, influences
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read


def reads(adam: bool = True, **_: object) -> tuple[str, ...]:
    """The gradients as Adam updates, or plain ones."""
    return columns_read("adam_grad" if adam else "grad")


def select(
    columns: pa.Table, budget: int, seed: int, *, tasks: list[str] | None = None, adam: bool = True
) -> Selection:
    """The `budget` rows whose highest adam_influence_<task> is highest, ties by the hash of (seed, id).

    `tasks`: which (default: all such columns). Without `adam` the columns are influence_<task>, of plain
    gradients. Text-only rows are treated like all others: a gradient needs no image. Rows that lack the
    influence on any of the tasks cannot be picked (`missing_value`). Reason: the task, and its influence as
    score. Raises ColumnError, BudgetError.
    """
    names, values = influences(columns, tasks, f"adam_{PREFIX}" if adam else PREFIX)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values).all(axis=0))
    inside = values[:, candidates.rows]
    places = band(inside.max(axis=0), candidates.budget, "top")
    best = inside[:, places].argmax(axis=0)
    return candidates.selection(
        columns, places, task=pa.array(names).take(pa.array(best)), score=inside[best, places]
    )


SELECTOR = Selector(select, reads=reads, cost="C5", targeted=True, nested=True)
