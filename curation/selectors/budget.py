"""Budgets in rows, in tokens and in compute: `30%`, `200`, `tokens:2e9`, or FLOPs of selection and training.

The tokens of a sample are the text and image tokens that the pool counts; its FLOPs are those of training on
it. A budget in either is never exceeded: samples are taken in the selector's order while they fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
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
PRECISION = 1000
"""FLOPs are budgeted in thousands: 64 bits then hold the training of any model on any pool."""


class SpendError(SelectorError):
    """A budget in tokens or FLOPs cannot be met: `requested` of them, of which `available` can be spent."""

    def __init__(self, requested: int, available: int, why: str, unit: str = "tokens") -> None:
        super().__init__(f"requested {requested:,} {unit}, only {available:,} available: {why}")
        self.requested, self.available = requested, available


class TokenBudgetError(SpendError):
    """The budget of tokens cannot be met."""


@dataclass(frozen=True)
class Compute:
    """What a budget in FLOPs pays for. `each`: FLOPs of training on each row, float64 [n], all epochs.

    `selection`: FLOPs that scoring the pool took, which are taken off the budget.
    """

    budget: float
    selection: float
    each: np.ndarray


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
    selection = _select_within(function, columns, tokens, budget, seed, params, TokenBudgetError)
    spent = _spent(columns, selection, tokens)
    notes = {"token_budget": budget, "tokens": spent, "tokens_left": budget - spent}
    return replace(selection, notes=selection.notes | notes)


def select_within_compute(
    function: Callable[..., Selection],
    columns: pa.Table,
    compute: Compute,
    seed: int,
    params: Mapping[str, Any] | None = None,
) -> Selection:
    """The largest selection of `function` whose training, with what selecting cost, stays in the budget.

    Rows are found as in `select_within_tokens`, with FLOPs in place of tokens. Notes gain `flops_budget`,
    `flops_selection`, `flops_training` and `flops_left`. Raises SpendError where selecting alone costs the
    budget, and as TokenBudgetError there.
    """
    # Whole numbers, so that sums do not depend on their order; rounded up, so that none is exceeded.
    each = np.ceil(compute.each / PRECISION).astype(np.int64)
    budget = int((compute.budget - compute.selection) // PRECISION)
    if budget < 1:
        raise SpendError(int(compute.budget), 0, f"selecting costs {compute.selection:.3g} FLOPs", "FLOPs")
    error = partial(_compute_error, compute.selection)
    selection = _select_within(function, columns, each, budget, seed, params, error)
    spent = _spent(columns, selection, each) * PRECISION
    notes = {
        "flops_budget": int(compute.budget),
        "flops_selection": int(compute.selection),
        "flops_training": spent,
        "flops_left": int(compute.budget) - int(compute.selection) - spent,
    }
    return replace(selection, notes=selection.notes | notes)


def _compute_error(selection: float, requested: int, available: int, why: str) -> SpendError:
    why += f" (besides {selection:.3g} that selecting costs)" if selection else ""
    return SpendError(requested * PRECISION, available * PRECISION, why, "FLOPs of training")


def _select_within(
    function: Callable[..., Selection],
    columns: pa.Table,
    costs: np.ndarray,
    budget: int,
    seed: int,
    params: Mapping[str, Any] | None,
    error: Callable[[int, int, str], SpendError],
) -> Selection:
    """The largest selection whose costs int64 [n] are at most `budget` in sum; see `select_within_tokens`."""
    total = int(costs.sum())
    if budget < 1:
        raise error(budget, total, "the budget must be at least 1")
    if budget > total:
        raise error(budget, total, "the whole pool has no more")
    trial = _Trial(function, columns, costs, seed, dict(params or {}))
    longest_first, shortest_first = np.cumsum(np.sort(costs)[::-1]), np.cumsum(np.sort(costs))
    low = int(np.searchsorted(longest_first, budget, side="right"))
    most = int(np.searchsorted(shortest_first, budget, side="right"))
    if most < 1:
        raise error(budget, 0, f"the shortest sample has {shortest_first[0]:,}")
    full = trial.largest(most)
    if trial.cost(full) < budget and len(full.rows) < most:
        raise error(budget, trial.cost(full), f"the selector can pick {len(full.rows):,} rows")
    if trial.cost(full) <= budget:
        return trial.within(full, budget)
    if Selector.of(function).is_nested(params or {}):
        rows = int(np.searchsorted(np.cumsum(trial.of(full)), budget, side="right"))
    else:
        rows = _bisect(trial, min(low, len(full.rows)), len(full.rows), budget)
    if rows < 1:
        raise error(budget, 0, "the first pick alone has more")
    return trial.within(trial.select(rows), budget)


def _spent(columns: pa.Table, selection: Selection, costs: np.ndarray) -> int:
    """The costs int64 [n] of the rows that were picked, in sum."""
    return int(costs[np.isin(row_numbers(columns), selection.rows)].sum())


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
        costs: np.ndarray,
        seed: int,
        params: dict[str, Any],
    ) -> None:
        self._function, self._columns, self._costs = function, columns, costs
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
        """What each pick costs."""
        return self._costs[self._order[np.searchsorted(self._sorted, selection.rows)]]

    def cost(self, selection: Selection) -> int:
        return int(self.of(selection).sum())

    def within(self, selection: Selection, budget: int) -> Selection:
        """The selection itself. Raises SelectorError if it costs more than the budget."""
        if self.cost(selection) > budget:
            raise SelectorError(
                f"{self._function.__module__} is declared nested, but a smaller budget gives other picks"
            )
        return selection
