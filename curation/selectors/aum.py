"""AUM: the margin p(target) - p(best other token), mean over the answer, the highest first.

Source: Pleiss et al. (arXiv 2001.10528), who average the margin over the epochs of a training to find
mislabelled rows (the lowest); as baseline of VLMs it is the margin of probabilities at one checkpoint
(COINCIDE's code), which D2 ranks from the highest. Needs: base_losses (or necessity, for the seed model).
Cost class: C2; C4 with the seed model. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read, loss_column


def reads(model: str = "base", **_: object) -> tuple[str, ...]:
    """The losses under `model`."""
    return columns_read(loss_column(model, "margin"))


def select(columns: pa.Table, budget: int, seed: int, *, rule: str = "top", model: str = "base") -> Selection:
    """The `budget` rows at the `rule` end ("top", "bottom", "mid": around the median) by the margin.

    "bottom" takes what the method calls mislabelled or hard. `model`: "base" or "seed" losses. Ties by the
    hash of (seed, id). Text-only rows are treated like all others. Rows without a value cannot be picked
    (`missing_value`). Raises ColumnError, BudgetError, SelectorError.
    """
    values, _ = bounded(columns, loss_column(model, "margin"))
    candidates = find_candidates(columns, budget, seed, np.isfinite(values))
    places = band(values[candidates.rows], candidates.budget, rule)
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


PUBLISHED = Published(
    rule="the highest mean over answer tokens of p(target) - p(best other token)",
    source="arXiv 2001.10528; at one checkpoint, as COINCIDE's code (2406.10995) has it",
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=True, published=PUBLISHED)
