"""Random rows from a band of one column, between two quantiles.

The general form of "neither the easiest nor the hardest" (selective perplexity: arXiv 2402.00530). Needs: the signal
of the column. Cost class: that of the column. Blind, unless the column is not.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, bounded
from curation.selectors.primitives.candidates import by_hash, candidates
from curation.selectors.signal_columns import signals_of


def needs(column: str = "", **_: object) -> tuple[str, ...]:
    """The signal that `column` comes from; none for a column of the pool itself."""
    return signals_of(column)


def select(
    columns: pa.Table, budget: int, seed: int, *, column: str, low: float = 0.25, high: float = 0.75
) -> Selection:
    """`budget` random rows of those whose rank by `column` lies between the quantiles `low` and `high`, both 0..1.

    Of n rows with a value, ranked by (value, hash of seed and id), those at places floor(low · n) to floor(high · n)
    - 1 are the band; rows are taken from it by the hash. Rows without a value are set aside (`missing_value`), so are
    those beside the band (`out_of_range`).
    Raises ColumnError, BudgetError where the band holds fewer, SelectorError unless 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise SelectorError(f"low {low} and high {high} are quantiles, 0 <= low < high <= 1")
    values, _ = bounded(columns, column)
    known = np.isfinite(values)
    order, _ = by_hash(columns, seed)
    ranked = order[known[order]]
    ranked = ranked[np.argsort(values[ranked], kind="stable")]
    inside = np.zeros(len(values), bool)
    inside[ranked[int(low * len(ranked) + 1e-9) : int(high * len(ranked) + 1e-9)]] = True
    found = candidates(columns, budget, seed, inside, outside=known & ~inside)
    places = np.arange(budget)
    return found.selection(columns, places, score=values[found.rows[places]])


SELECTOR = Selector(select, needs=needs, cost="C0", nested=True)
