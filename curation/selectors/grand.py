"""GraNd: the length of a sample's loss gradient, the longest first.

Source: Paul et al. (arXiv 2107.07075), who average it over initialisations early in training; here at the
end of a short LoRA warm-up and over its adapters alone (a reading, as all gradients of VLMs are). Needs:
gradient. Cost class: C5. Blind: the validation items that the signal also reads do not enter the length.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates


def select(columns: pa.Table, budget: int, seed: int, *, rule: str = "top") -> Selection:
    """The `budget` rows at the `rule` end ("top", "bottom", "mid": around the median) by `grad_norm`.

    Ties by the hash of (seed, id). Text-only rows are treated like all others. Rows without a value
    (`missing_value`) or with one below 0 (`out_of_range`) cannot be picked. Raises ColumnError, BudgetError,
    SelectorError.
    """
    values, outside = bounded(columns, "grad_norm", low=0)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values), outside=outside)
    places = band(values[candidates.rows], candidates.budget, rule)
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


PUBLISHED = Published(
    rule="the longest gradient of the sample's loss first",
    source="arXiv 2107.07075; one checkpoint and LoRA weights in place of several initialisations",
)
SELECTOR = Selector(select, reads=("grad_norm",), cost="C5", nested=True, published=PUBLISHED)
