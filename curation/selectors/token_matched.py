"""Random rows with as many text and image tokens as a given subset, so more or fewer rows than it has.

The control for a selector that takes longer or shorter samples than random ones are: what it gains may be
what more tokens gain (the token-matched random arm that arXiv 2503.01807 and 2410.09335 call for). Needs:
reference, the membership in the given subset. Cost class: C0. Blind (as blind as the given subset).
"""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pyarrow as pa

from curation.selectors.budget import row_tokens
from curation.selectors.contract import (
    BudgetError,
    Selection,
    Selector,
    SelectorError,
    check_budget,
    flags,
    row_numbers,
    sources_of,
)
from curation.selectors.primitives.candidates import by_hash

TOLERANCE = Fraction(5, 1000)
"""How far the tokens may be from the reference's, as a share of these."""


def select(columns: pa.Table, budget: int, seed: int) -> Selection:
    """Random rows whose tokens sum to those of `budget` rows of the reference's mean length, within 0.5 %.

    Where the reference has `budget` rows, that is its own total. The rows are those of the selector `random`
    with this seed, until the sum is reached; where it is missed, the last of them is the first in that order
    that ends within the tolerance. Fewer or more rows than `budget` are `Selection.surplus`, below or above
    0. Rows of the reference may be drawn too. Notes: rows and tokens of the reference and of the pool, and
    `tokens` drawn.

    Raises ColumnError where a token count is unknown, SelectorError without a reference, and BudgetError
    where the pool has too few tokens or no random rows end within the tolerance.
    """
    check_budget(budget, len(columns))
    tokens, reference = row_tokens(columns), flags(columns, "in_reference")
    rows, total, spent = len(columns), int(tokens.sum()), int(tokens[reference].sum())
    given = int(reference.sum())
    if not spent:
        raise SelectorError("no row with tokens is marked in_reference, so there is nothing to match")
    order = by_hash(columns, seed)[0]
    mean, in_order = Fraction(spent, given), tokens[order]
    if (places := _places(in_order, mean * budget)) is None:
        smaller = range(min(budget - 1, int(total / mean)), 0, -1)
        available = next((rows for rows in smaller if _places(in_order, mean * rows) is not None), 0)
        low, high = _bounds(mean * budget)
        why = f"no random rows have the {low:,} to {high:,} tokens that {budget:,} of the reference have"
        raise BudgetError(budget, available, why)
    picks = order[places]
    notes = {
        "reference_rows": given,
        "reference_tokens": spent,
        "pool_rows": rows,
        "pool_tokens": total,
        "tokens": int(tokens[picks].sum()),
    }
    return Selection(row_numbers(columns)[picks], sources_of(columns, picks), notes, len(picks) - budget)


def _bounds(wanted: Fraction) -> tuple[int, int]:
    """The least and the most tokens within the tolerance, as whole numbers."""
    return ceil(wanted * (1 - TOLERANCE)), floor(wanted * (1 + TOLERANCE))


def _places(tokens: np.ndarray, wanted: Fraction) -> np.ndarray | None:
    """The places 0, 1, ..., k - 1, and one more where needed, whose `tokens` sum to `wanted` in its bounds.

    The largest k for which that is possible; None where none is. tokens: int64[n].
    """
    low, high = _bounds(wanted)
    before = np.concatenate([[0], np.cumsum(tokens)])
    for k in range(int(np.searchsorted(before, floor(wanted), side="right")) - 1, -1, -1):
        if k and low <= before[k]:
            return np.arange(k)
        ends = before[k] + tokens[k:]
        if len(found := np.flatnonzero((low <= ends) & (ends <= high))):
            return np.append(np.arange(k), k + found[0])
    return None


SELECTOR = Selector(select, needs=("reference",), cost="C0")
