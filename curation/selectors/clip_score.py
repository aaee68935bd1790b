"""CLIP score: cosine of image and text under a dual encoder, the highest first.

Source: Hessel et al. (arXiv 2104.08718); as a filter DataComp (arXiv 2304.14108); for instructions the mean
of the sentences' cosines, InstructionGPT-4 (arXiv 2308.12067, released code). Which text is compared
(question, answer, both), and whether by sentence or as one whole text, are settings of the signal. Needs:
clip. Cost class: C1. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept


def select(
    columns: pa.Table, budget: int, seed: int, *, rule: str = "top", text_only: str | None = "exclude"
) -> Selection:
    """The `budget` rows at the `rule` end ("top", "bottom", "mid": around the median) by `clip_score`.

    Ties by the hash of (seed, id). Text-only rows have no score: `text_only="exclude"` leaves them out,
    "keep" gives them their share of the budget at random (then subsets are not nested), None counts them
    among the rows without a score. Rows with images but without a score (`missing_value`) or with one outside
    -100 .. 100 (`out_of_range`; some encoders report 100 · cosine) cannot be picked. Raises ColumnError,
    BudgetError, SelectorError.
    """
    values, outside = bounded(columns, "clip_score", low=-100, high=100)
    candidates = find_candidates(
        columns, budget, seed, np.isfinite(values), outside=outside, text_only=text_only
    )
    places = band(values[candidates.rows], candidates.budget, rule)
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


PUBLISHED = Published(
    rule="the highest mean cosine of the image and the text's sentences",
    source="arXiv 2104.08718 (score), 2308.12067, code (sentences); the text differs between papers",
)
SELECTOR = Selector(select, needs=("clip",), cost="C1", nested=nested_unless_kept, published=PUBLISHED)
