"""IFD: instruction-following difficulty L(A|I,Q) / L(A|I), the highest that is not above 1 first.

Source: Li et al., Cherry LLM (arXiv 2308.12032); for multimodal samples the image stays in both losses.
Needs: necessity, necessity_ablated (or the base model's). Cost class: C4 (two forward passes of a model tuned
on a part of the pool); C3 with the base model. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors import formulas
from curation.selectors.contract import Published, Selection, Selector
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read, loss_column, losses


def reads(model: str = "seed", **_: object) -> tuple[str, ...]:
    """The losses with and without the question under `model`."""
    return columns_read(loss_column(model, "nll"), loss_column(model, "nll_noq"))


def select(
    columns: pa.Table, budget: int, seed: int, *, model: str = "seed", highest: float = 1.0
) -> Selection:
    """The `budget` rows with the highest ratio, those above `highest` left out (`out_of_range`).

    Above 1 the question makes the answer less likely, mostly because the two do not belong together;
    `highest=inf` keeps all. Ties by the hash of (seed, id). Text-only rows are rows like others, with L(A|Q)
    / L(A). Rows without one of the losses, or whose L(A|I) is not above 0, cannot be picked
    (`missing_value`). Raises ColumnError, BudgetError, SelectorError.
    """
    ratio = formulas.ifd(*losses(columns, model, "nll", "nll_noq"))
    inside = np.isfinite(ratio) & (ratio >= 0) & (ratio <= highest)
    candidates = find_candidates(columns, budget, seed, inside, outside=np.isfinite(ratio) & ~inside)
    places = band(ratio[candidates.rows], candidates.budget, "top")
    return candidates.selection(columns, places, score=ratio[candidates.rows[places]])


PUBLISHED = Published(
    rule="the highest L(A|Q) / L(A) that is not above 1",
    source="arXiv 2308.12032, code read; the image in both losses is the multimodal baselines' reading",
)
SELECTOR = Selector(select, reads=reads, cost="C4", nested=True, published=PUBLISHED)
