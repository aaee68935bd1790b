"""Budgets in rows and in tokens: `30%`, `200` or `tokens:2e9`.

The tokens of a sample are its text and image tokens as the pool counts them; a budget of tokens is never exceeded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    BudgetError,
    ColumnError,
    Selection,
    Selector,
    SelectorError,
    numbers,
    require,
    resolve_budget,
    row_numbers,
)

PREFIX = "tokens:"
TOKEN_COLUMNS = ("text_tokens", "image_tokens")


class TokenBudgetError(SelectorError):
    """The budget of tokens is not met: `requested` and `available` tokens."""

    def __init__(self, requested: int, available: int, why: str) -> None:
        super().__init__(f"budget of {requested:,} tokens asked for, {available:,} can be had: {why}")
        self.requested, self.available = requested, available


def choose(
    function: Callable[..., Selection],
    columns: pa.Table,
    budget: str | int,
    seed: int,
    params: Mapping[str, Any] | None = None,
) -> Selection:
    """The selection of `function` for a budget in any form.

    Raises SelectorError and its kinds, also where a selector of the user's own gives something else than a Selection of
    as many rows as were asked for.
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
    """`"tokens:2e9"` -> 2,000,000,000; None for a budget in rows. Raises SelectorError for text that is no whole number."""
    text = str(budget).strip()
    if not text.startswith(PREFIX):
        return None
    try:
        number = Decimal(text.removeprefix(PREFIX).strip())
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number.as_integer_ratio()[1] != 1:
        raise SelectorError(f"budget {budget!r} is no number of tokens such as 'tokens:2e9'")
    return int(number)


def row_tokens(columns: pa.Table) -> np.ndarray:
    """Text plus image tokens, int64[n]. Raises ColumnError where they are unknown for any row: a part of them would mislead."""
    require(columns, TOKEN_COLUMNS)
    total = np.zeros(len(columns), np.int64)
    for name in TOKEN_COLUMNS:
        unknown = columns[name].null_count
        if unknown:
            raise ColumnError(
                name,
                f"{name} is unknown for {unknown:,} of {len(columns):,} rows, so a budget of tokens cannot be held",
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

    Where the selector is nested (a smaller budget gives the first picks of a larger one: its module says `NESTED = True`,
    or has a function `nested(**params)` that does) it is the longest prefix of the pick order that fits. Otherwise the number of rows k is found by bisection between bounds that
    hold for any selector (the rows that fit if the longest, or the shortest, come first): k rows fit and k + 1 do not.
    Where more rows may cost fewer tokens there can be several such k; the one that is found depends on nothing but the
    arguments.

    Notes gain `token_budget`, `tokens` (spent) and `tokens_left`. Raises ColumnError where token counts are unknown,
    TokenBudgetError for a budget below 1, below the first pick, or above what the pool or the selector has.
    """
    tokens = row_tokens(columns)
    total = int(tokens.sum())
    if budget < 1:
        raise TokenBudgetError(budget, total, "it must be at least 1")
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
    """k such that k rows fit and k + 1 do not; `fits` rows are known to fit, `over` rows not to."""
    while over - fits > 1:
        middle = (fits + over) // 2
        if trial.cost(trial.select(middle)) <= budget:
            fits = middle
        else:
            over = middle
    return fits


class _Trial:
    """One selector on one table, asked for several numbers of rows."""

    def __init__(
        self,
        function: Callable[..., Selection],
        columns: pa.Table,
        tokens: np.ndarray,
        seed: int,
        params: dict[str, Any],
    ) -> None:
        self._function, self._columns, self._tokens, self._seed, self._params = (
            function,
            columns,
            tokens,
            seed,
            params,
        )
        rows = row_numbers(columns)
        self._order = np.argsort(rows, kind="stable")
        self._sorted = rows[self._order]

    def select(self, rows: int) -> Selection:
        return _selected(self._function, self._columns, rows, self._seed, self._params)

    def largest(self, rows: int) -> Selection:
        """At most `rows` rows: what the selector can give if it is fewer."""
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
                f"{self._function.__module__} says NESTED, but a smaller budget does not give its first picks"
            )
        notes = {"token_budget": budget, "tokens": spent, "tokens_left": budget - spent}
        return replace(selection, notes=selection.notes | notes)
