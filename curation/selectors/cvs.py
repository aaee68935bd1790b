"""CVS, conditional verdict shift: the rows whose question makes a frozen model surer of the answer.

Source: Sun et al. (arXiv 2603.09715), from the abstract and notes of third parties (no code was read): a
frozen model's probability that the answer is valid, given image and question against image alone; where it
falls, question and answer conflict, and where it stays the question does not matter. Needs: validity. Cost
class: C3 (two forward passes). Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded, one_of
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept

HIGHEST = 1.0 + 1e-3
"""A probability is at most 1; 1e-3 is slack for half precision."""


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    shift: str = "difference",
    above: float = 0.0,
    text_only: str | None = None,
) -> Selection:
    """The `budget` rows with the highest shift, of those where valid_with - valid_without exceeds `above`.

    `shift`: "difference", or "ratio" (valid_with / valid_without); which of them the paper ranks by is not
    known to us. `above=-inf` keeps rows whose probability falls too. Ties by the hash of (seed, id).
    Text-only rows: None (treated like all others, with the answer alone in place of the image), "exclude" or
    "keep" (their share at random). Rows without one of the two columns, or with a ratio to 0, cannot be
    picked (`missing_value`), nor rows outside 0 .. 1 or not above `above` (`out_of_range`). Reason: score,
    valid_with, valid_without. Raises ColumnError, BudgetError, SelectorError.
    """
    one_of("shift", shift, ("difference", "ratio"))
    given, no_given = bounded(columns, "valid_with", low=0, high=HIGHEST)
    bare, no_bare = bounded(columns, "valid_without", low=0, high=HIGHEST)
    difference = given - bare
    score = difference
    if shift == "ratio":
        score = np.divide(given, bare, out=np.full(len(bare), np.nan), where=bare > 0)
    usable = np.isfinite(score) & (difference > above)
    outside = no_given | no_bare | (np.isfinite(score) & ~usable)
    candidates = find_candidates(columns, budget, seed, usable, outside=outside, text_only=text_only)
    places = band(score[candidates.rows], candidates.budget, "top")
    picks = candidates.rows[places]
    return candidates.selection(
        columns, places, score=score[picks], valid_with=given[picks], valid_without=bare[picks]
    )


PUBLISHED = Published(
    rule="highest rise of a frozen model's P(answer valid) from image alone to image and question; no falls",
    source="arXiv 2603.09715, abstract and third parties' notes; difference, query and replies are readings",
)
SELECTOR = Selector(
    select, reads=("valid_with", "valid_without"), cost="C3", nested=nested_unless_kept, published=PUBLISHED
)
