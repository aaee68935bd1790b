"""Every row: the full-data arm.

Needs: nothing. Cost class: C0. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import BudgetError, Selection, Selector, row_numbers, sources_of


def select(columns: pa.Table, budget: int, seed: int) -> Selection:
    """All rows, ascending. `budget` must be their number (BudgetError otherwise); `seed` has no effect."""
    rows = np.sort(row_numbers(columns))
    if budget != len(rows):
        raise BudgetError(
            budget, len(rows), "the selector `all` takes the whole pool, so its budget must be 100%"
        )
    return Selection(rows, sources_of(columns, np.argsort(row_numbers(columns))))


SELECTOR = Selector(select, cost="C0")
