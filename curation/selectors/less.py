"""LESS: the highest influence on any one target task, max over tasks of the mean gradient similarity.

Source: Xia et al. (arXiv 2402.04333) and their released code: inner products of projected unit gradients of
LoRA weights (for the pool, directions of Adam's update), summed over the checkpoints of a warm-up weighted by
their learning rates; mean over the validation samples of a subtask, maximum over the subtasks. Needs:
gradient_adam (adam_influence_<task>). Cost class: C5. Targeted: it sees validation data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, one_of
from curation.selectors.icons import PREFIX, influences
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read

PREFIXES = {"published": "adam_", "clean": "clean_adam_"}
"""Variant -> prefix of the columns that hold the gradients as Adam's updates."""


def reads(variant: str = "published", adam: bool = True, **_: object) -> tuple[str, ...]:
    """The gradients as Adam updates, or plain ones."""
    return columns_read(f"{PREFIXES.get(variant, '')}grad" if adam else "grad")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    tasks: list[str] | None = None,
    adam: bool = True,
) -> Selection:
    """The `budget` rows whose highest influence on any of the `tasks` is highest (default: on all there are).

    The paper selects for one task at a time; the maximum over several is a reading. `variant`: "published"
    reads adam_influence_<task>, of the direction m / sqrt(v + 1e-8), without correction of the moments' bias;
    "clean" reads clean_adam_influence_<task>, of the update that Adam makes, with m and v corrected and
    sqrt(v) + 1e-8. Where gradients are near 1e-4, as those of LoRA weights may be, the 1e-8 is as
    large as v, and the two are different directions (cosine about 0.55 at that scale): the picks overlap
    by 0.33 (Jaccard) on the frozen table of tests/parity, which holds such gradients. Without `adam` the
    columns are influence_<task>, of plain gradients. Ties by the hash of (seed, id). Text-only rows are
    treated like all others: a gradient needs no image. Rows that lack the influence on any of the tasks
    cannot be picked (`missing_value`). Reason: the task, and its influence as score. Raises ColumnError,
    BudgetError, SelectorError.
    """
    one_of("variant", variant, tuple(PREFIXES))
    names, values = influences(columns, tasks, f"{PREFIXES[variant]}{PREFIX}" if adam else PREFIX)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values).all(axis=0))
    inside = values[:, candidates.rows]
    places = band(inside.max(axis=0), candidates.budget, "top")
    best = inside[:, places].argmax(axis=0)
    return candidates.selection(
        columns, places, task=pa.array(names).take(pa.array(best)), score=inside[best, places]
    )


PUBLISHED = Published(
    rule="the highest inner product of m / sqrt(v + 1e-8) with a task's gradients; mean by subtask, then max",
    source="arXiv 2402.04333, code",
    variants={"published": {}, "clean": {"variant": "clean"}},
    differs={"clean": "Adam's own update, sqrt(v) + 1e-8 with the moments' bias corrected"},
)
SELECTOR = Selector(select, reads=reads, cost="C5", targeted=True, nested=True, published=PUBLISHED)
