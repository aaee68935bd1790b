"""ScalSelect: the rows with the highest leverage in the leading directions of what the question looks at.

Source: Wu et al. (arXiv 2602.11636) and the released code, of which this follows the formulas. The vector of
a row is the mean of the visual tokens that the text of its questions attends to most in the model's first
layer, until 90 % of that attention; leverage: see the signal. Needs: leverage. Cost class: C2, of a model
whose first layer is enough. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, numbers
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept


def select(columns: pa.Table, budget: int, seed: int, *, text_only: str | None = "exclude") -> Selection:
    """The `budget` rows of the highest `leverage`; ties by the hash of (seed, id).

    Rows without image have no leverage: `text_only="exclude"` leaves them out (published, on the part of
    LLaVA-665K that has images), "keep" gives them their share of the budget at random, None counts them among
    the rows without a value, which cannot be picked (`missing_value`). Reason: score. Raises ColumnError,
    BudgetError, SelectorError.
    """
    value = numbers(columns, "leverage")
    candidates = find_candidates(columns, budget, seed, np.isfinite(value), text_only=text_only)
    score = value[candidates.rows]
    places = np.argsort(-score, kind="stable")[: candidates.budget]
    return candidates.selection(columns, places, score=score[places])


SELECTOR = Selector(
    select,
    reads=("leverage",),
    cost="C2",
    nested=nested_unless_kept,
    published=Published(
        "highest leverage in the directions that hold 90 % of the energy of attended visual states",
        "arXiv 2602.11636 and its released code (read)",
    ),
)
