"""OST: the rows after one training step on which the loss of target items falls most.

Source: arXiv 2605.07488, by a note of it: loss of about 100 anchors before minus after one simulated step on
the sample, on a small proxy after a 5 % warm-up, the highest first. The optimizer of the step is a reading of
ours (see the signal). Needs: step_gain. Cost class: C5. Targeted: it sees validation data of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read


def reads(column: str = "step_gain", **_: object) -> tuple[str, ...]:
    """The gains."""
    return columns_read(column)


def select(columns: pa.Table, budget: int, seed: int, *, column: str = "step_gain") -> Selection:
    """The `budget` rows with the highest `column`, ties by the hash of (seed, id).

    Text-only rows are treated like all others: a step needs no image. Rows without a gain cannot be picked
    (`missing_value`). Note `harmful`: picks whose step raises the loss (gain below 0). Reason: score. Raises
    ColumnError, BudgetError.
    """
    gains, _ = bounded(columns, column)
    candidates = find_candidates(columns, budget, seed, np.isfinite(gains))
    places = band(gains[candidates.rows], candidates.budget, "top")
    score = gains[candidates.rows[places]]
    return candidates.selection(columns, places, {"harmful": int((score < 0).sum())}, score=score)


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C5",
    targeted=True,
    nested=True,
    published=Published(
        "highest loss of target anchors before minus after one step on the sample",
        "arXiv 2605.07488, a note of it; the optimizer of the step is a reading",
    ),
)
