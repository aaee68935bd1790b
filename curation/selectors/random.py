"""Uniform without replacement: the baseline that published selectors have to beat, and often do not.

Evidence that it is hard to beat: arXiv 2410.09335, 2503.01807. Needs: nothing. Cost class: C0. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, check_budget, row_numbers, sources_of, texts
from curation.selectors.primitives.keys import seeded_keys


def select(columns: pa.Table, budget: int, seed: int) -> Selection:
    """The `budget` rows with the smallest hash of (seed, id): nested over budgets. Raises BudgetError."""
    check_budget(budget, len(columns))
    picks = np.lexsort((row_numbers(columns), seeded_keys(seed, texts(columns, "id"))))[:budget]
    return Selection(row_numbers(columns)[picks], sources_of(columns, picks))


SELECTOR = Selector(select, cost="C0", nested=True)
