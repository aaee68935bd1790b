"""Budgets in rows and in tokens: `30%`, `200` or `tokens:2e9`.

The tokens of a sample are the text and image tokens that the pool counts; a budget of tokens is never
exceeded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    BudgetError,
    ColumnError,
    Selection,
    Selector,
    SelectorError,
    number_of,
    numbers,
    require,
    resolve_budget,
    row_numbers,
    share_or_rows,
)

PREFIX = "tokens:"
TOKEN_COLUMNS = ("text_tokens", "image_tokens")


class TokenBudgetError(SelectorError):
    """The budget of tokens cannot be met: `requested` tokens, of which `available` can be spent."""

    def __init__(self, requested: int, available: int, why: str) -> None:
        super().__init__(f"requested {requested:,} tokens, only {available:,} available: {why}")
        self.requested, self.available = requested, available


def choose(
    function: Callable[..., Selection],
    columns: pa.Table,
    budget: str | int,
    seed: int,
    params: Mapping[str, Any] | None = None,
) -> Selection:
    """The selection of `function` for a budget in any form.

    Raises SelectorError and its subclasses, also where a user's own selector does not return a Selection of
    the requested size.
    """
    tokens = token_budget(budget)
    if tokens is not None:
        return select_within_tokens(function, columns, tokens, seed, params)
    return _selected(function, columns, resolve_budget(budget, len(columns)), seed, params or {})


def _selected(
    function: Callable[..., Selection], columns: pa.Table, rows: int, seed: int, params: Mapping[str, Any]
) -> Selection:
    selection = function(columns, rows, seed, **params)
    name = f"{function.__module__}:{function.__name__}"
    if not isinstance(selection, Selection):
        raise SelectorError(f"{name} returned {type(selection).__name__}, not a curation.selectors.Selection")
    if len(selection.rows) != rows + selection.surplus:
        raise SelectorError(f"{name} picked {len(selection.rows):,} rows, requested {rows:,}")
    return selection


def token_budget(budget: str | int) -> int | None:
    """`"tokens:2e9"` -> 2,000,000,000; None for a budget in rows. Raises SelectorError unless it is whole."""
    text = str(budget).strip()
    if not text.startswith(PREFIX):
        return None
    number = number_of(text.removeprefix(PREFIX))
    if not number.is_finite() or number != int(number):
        raise SelectorError(f"budget must be a number of tokens such as 'tokens:2e9', got {budget!r}")
    return int(number)


def check_form(budget: str | int) -> None:
    """Raises SelectorError for a text that is no budget for any pool."""
    if token_budget(budget) is None:
        share_or_rows(budget)


def row_tokens(columns: pa.Table) -> np.ndarray:
    """Text plus image tokens, int64[n]. Raises ColumnError if any is unknown: a partial sum would mislead."""
    require(columns, TOKEN_COLUMNS)
    total = np.zeros(len(columns), np.int64)
    for name in TOKEN_COLUMNS:
        unknown = columns[name].null_count
        if unknown:
            raise ColumnError(
                name,
                f"{name} is unknown for {unknown:,} of {len(columns):,} rows, so tokens cannot be budgeted",
            )
        total += numbers(columns, name).astype(np.int64)
    if total.min(initial=0) < 0:
        raise ColumnError(TOKEN_COLUMNS[0], "a row has a negative number of tokens")
    return total


def select_within_tokens(
    function: Callable[..., Selection],
    columns: pa.Table,
    budget: int,
    seed: int,
    params: Mapping[str, Any] | None = None,
) -> Selection:
    """The largest selection of `function` whose text and image tokens do not exceed `budget`.

    For a nested selector (`Selector.nested`: a smaller budget gives the first picks of a larger one) it is
    the longest prefix of the pick order that fits. For others bisection finds a number of rows k such that k
    rows fit and k + 1 do not, between bounds that hold for any selector (the rows that fit if the longest, or
    the shortest, come first). Where more rows may cost fewer tokens there can be several such k; which one is
    found depends on the arguments only.

    Notes gain `token_budget`, `tokens` (spent) and `tokens_left`. Raises ColumnError where token counts are
    unknown, TokenBudgetError for a budget below 1, below the first pick, or above the tokens of the pool or
    of the selector's largest selection.
    """
    tokens = row_tokens(columns)
    total = int(tokens.sum())
    if budget < 1:
        raise TokenBudgetError(budget, total, "the budget must be at least 1")
    if budget > total:
        raise TokenBudgetError(budget, total, "the whole pool has no more")
    trial = _Trial(function, columns, tokens, seed, dict(params or {}))
    longest_first, shortest_first = np.cumsum(np.sort(tokens)[::-1]), np.cumsum(np.sort(tokens))
    low = int(np.searchsorted(longest_first, budget, side="right"))
    most = int(np.searchsorted(shortest_first, budget, side="right"))
    if most < 1:
        raise TokenBudgetError(budget, 0, f"the shortest sample has {shortest_first[0]:,}")
    full = trial.largest(most)
    if trial.cost(full) < budget and len(full.rows) < most:
        raise TokenBudgetError(budget, trial.cost(full), f"the selector can pick {len(full.rows):,} rows")
    if trial.cost(full) <= budget:
        return trial.noted(full, budget)
    if Selector.of(function).is_nested(params or {}):
        rows = int(np.searchsorted(np.cumsum(trial.of(full)), budget, side="right"))
    else:
        rows = _bisect(trial, min(low, len(full.rows)), len(full.rows), budget)
    if rows < 1:
        raise TokenBudgetError(budget, 0, "the first pick alone has more")
    return trial.noted(trial.select(rows), budget)


def _bisect(trial: "_Trial", fits: int, over: int, budget: int) -> int:
    """k such that k rows fit and k + 1 do not; `fits` rows are known to fit, `over` rows are known not to."""
    while over - fits > 1:
        middle = (fits + over) // 2
        if trial.cost(trial.select(middle)) <= budget:
            fits = middle
        else:
            over = middle
    return fits


class _Trial:
    """One selector on one table, run for several numbers of rows."""

    def __init__(
        self,
        function: Callable[..., Selection],
        columns: pa.Table,
        tokens: np.ndarray,
        seed: int,
        params: dict[str, Any],
    ) -> None:
        self._function, self._columns, self._tokens = function, columns, tokens
        self._seed, self._params = seed, params
        rows = row_numbers(columns)
        self._order = np.argsort(rows, kind="stable")
        self._sorted = rows[self._order]

    def select(self, rows: int) -> Selection:
        return _selected(self._function, self._columns, rows, self._seed, self._params)

    def largest(self, rows: int) -> Selection:
        """`rows` rows, or as many as the selector can pick."""
        try:
            return self.select(rows)
        except BudgetError as error:
            if not 1 <= error.available < rows:
                raise
            return self.select(error.available)

    def of(self, selection: Selection) -> np.ndarray:
        """Tokens of each pick."""
        return self._tokens[self._order[np.searchsorted(self._sorted, selection.rows)]]

    def cost(self, selection: Selection) -> int:
        return int(self.of(selection).sum())

    def noted(self, selection: Selection, budget: int) -> Selection:
        spent = self.cost(selection)
        if spent > budget:
            raise SelectorError(
                f"{self._function.__module__} is declared nested, but a smaller budget gives other picks"
            )
        notes = {"token_budget": budget, "tokens": spent, "tokens_left": budget - spent}
        return replace(selection, notes=selection.notes | notes)
