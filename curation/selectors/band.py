"""Random rows from a band of one column, between two quantiles.

The general form of "neither the easiest nor the hardest" (selective perplexity: arXiv 2402.00530). Needs: the
signal of the column. Cost class: that of the column. Blind, unless the column is not.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, bounded
from curation.selectors.primitives.candidates import by_hash, find_candidates
from curation.selectors.signal_columns import columns_read


def reads(column: str = "", **_: object) -> tuple[str, ...]:
    """The column that it ranks by."""
    return columns_read(column)


def select(
    columns: pa.Table, budget: int, seed: int, *, column: str, low: float = 0.25, high: float = 0.75
) -> Selection:
    """`budget` random rows of those ranked between the quantiles `low` and `high` (0 to 1) of `column`.

    The n rows with a value are ranked by (value, hash of seed and id); those at places floor(low · n) up to,
    but not including, floor(high · n) are the band, from which rows are taken by the hash. Rows without a
    value (`missing_value`) or outside the band (`out_of_range`) cannot be picked. Raises ColumnError,
    BudgetError where the band holds fewer, SelectorError unless 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise SelectorError(
            f"low and high must be quantiles, 0 <= low < high <= 1, got low={low}, high={high}"
        )
    values, _ = bounded(columns, column)
    known = np.isfinite(values)
    order, _ = by_hash(columns, seed)
    ranked = order[known[order]]
    ranked = ranked[np.argsort(values[ranked], kind="stable")]
    inside = np.zeros(len(values), bool)
    inside[ranked[int(low * len(ranked) + 1e-9) : int(high * len(ranked) + 1e-9)]] = True
    candidates = find_candidates(columns, budget, seed, inside, outside=known & ~inside)
    places = np.arange(budget)
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


SELECTOR = Selector(select, reads=reads, cost="C0", nested=True)
