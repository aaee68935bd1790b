"""Selectors: pure functions `select(columns, budget, seed, **params) -> Selection`.

What a selector obeys is in `contract`; which ones there are, and a user's own by address, in `registry`.
Nothing else stands here: a stage's identity covers every package on the way to what it imports, so that an
entry here would change all subsets.
"""

from curation.selectors.contract import (
    BudgetError,
    ColumnError,
    Selection,
    Selector,
    SelectorError,
    SizeError,
    resolve_budget,
)

__all__ = [
    "BudgetError",
    "ColumnError",
    "Selection",
    "Selector",
    "SelectorError",
    "SizeError",
    "resolve_budget",
]
