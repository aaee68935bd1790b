"""The rows with the highest (or lowest) value of one column.

Needs: the signal of the column. Cost class: that of the column. Blind, unless the column is not.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Selection,
    Selector,
    check_budget,
    numbers,
    one_of,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.primitives.keys import seeded_keys
from curation.selectors.signal_columns import columns_read


def reads(column: str = "", **_: object) -> tuple[str, ...]:
    """The column that it ranks by."""
    return columns_read(column)


def select(columns: pa.Table, budget: int, seed: int, *, column: str, order: str = "descending") -> Selection:
    """The `budget` rows that come first by `column`, ties by the hash of (seed, id): nested over budgets.

    `order` is "descending" (highest first) or "ascending". Rows whose value is missing or NaN cannot be
    picked and are counted as `missing_value`. Raises ColumnError, BudgetError, SelectorError.
    """
    one_of("order", order, ("descending", "ascending"))
    values = numbers(columns, column)
    known = np.flatnonzero(~np.isnan(values))
    check_budget(budget, len(known), f"{len(values) - len(known):,} rows have no {column}")
    keys = seeded_keys(seed, texts(columns, "id"))[known]
    ranked = values[known] if order == "ascending" else -values[known]
    picks = known[np.lexsort((row_numbers(columns)[known], keys, ranked))[:budget]]
    reason = sources_of(columns, picks).append_column("score", pa.array(values[picks], pa.float64()))
    return Selection(row_numbers(columns)[picks], reason, {"missing_value": len(values) - len(known)})


SELECTOR = Selector(select, reads=reads, cost="C0", nested=True)
