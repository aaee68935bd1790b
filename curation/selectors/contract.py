"""What every selector obeys: `select(columns, budget, seed, **params) -> Selection`, a pure function.

Rows are named by the values of the `row` column, never by their position. Ties are broken by a hash of seed and id,
never by input order, so a selection is the same for every order of the rows, every CPU and every PYTHONHASHSEED.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

import numpy as np
import pyarrow as pa


class SelectorError(ValueError):
    """A selection that cannot be made as asked: unknown selector or parameter, bad value."""


class BudgetError(SelectorError):
    """The budget is not met: `requested` and `available` rows."""

    def __init__(self, requested: int, available: int, why: str = "") -> None:
        super().__init__(f"budget of {requested:,} rows asked for, {available:,} can be had{': ' if why else ''}{why}")
        self.requested, self.available = requested, available


class ColumnError(SelectorError):
    """A column that the selector needs is missing or of the wrong type; `column` names it."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True)
class Selection:
    """`rows` int64[budget] in pick order; `reason` has one row for each pick; `notes` counts what was set aside."""

    rows: np.ndarray
    reason: pa.Table
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows.dtype != np.int64 or self.rows.ndim != 1:
            raise TypeError(f"rows must be int64[n], are {self.rows.dtype}{list(self.rows.shape)}")
        if self.reason.num_rows != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows but {self.reason.num_rows} reasons")
        if (np.diff(np.sort(self.rows)) == 0).any():
            raise ValueError("a row was picked twice")


def resolve_budget(budget: str | int, pool_size: int) -> int:
    """`"30%"` -> floor(30 / 100 · pool_size), computed exactly; `200` or `"200"` -> 200.

    Raises BudgetError for a budget that the pool cannot meet, SelectorError for text that is none.
    """
    text = str(budget).strip()
    try:
        number = Decimal(text.removesuffix("%"))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(budget, bool) or not number.is_finite() or (not text.endswith("%") and number % 1):
        raise SelectorError(f"budget {budget!r} is neither a share such as '30%' nor a number of rows")
    rows = int(number * pool_size / 100) if text.endswith("%") else int(number)
    if text.endswith("%") and number > 100:
        raise BudgetError(max(rows, pool_size + 1), pool_size, f"{text} is more than there is")
    check_budget(rows, pool_size)
    return rows


def check_budget(budget: int, available: int, why: str = "") -> None:
    """Raises BudgetError unless 1 <= budget <= available."""
    if not 1 <= budget <= available:
        raise BudgetError(budget, available, why if budget > 0 else "it must be at least 1")


def require(columns: pa.Table, names: Iterable[str]) -> None:
    """Raises ColumnError, with what there is, for the first column of `names` that is missing."""
    for name in names:
        if name not in columns.column_names:
            raise ColumnError(name, f"column {name!r} is missing; there are {', '.join(columns.column_names)}")


def numbers(columns: pa.Table, name: str) -> np.ndarray:
    """A numeric column as float64[n], missing values as NaN. Raises ColumnError."""
    require(columns, [name])
    column = columns[name]
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ColumnError(name, f"column {name!r} is {kind}, not numeric")
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def row_numbers(columns: pa.Table) -> np.ndarray:
    """The `row` column as int64[n]. Raises ColumnError."""
    require(columns, ["row"])
    return columns["row"].cast(pa.int64()).to_numpy()


def sources_of(columns: pa.Table, picks: np.ndarray) -> pa.Table:
    """One column `source` for the rows at the positions `picks`. Raises ColumnError."""
    require(columns, ["source"])
    return columns.select(["source"]).take(picks)


def texts(columns: pa.Table, name: str) -> pa.Array:
    """A text column as one string array, null as "". Raises ColumnError."""
    require(columns, [name])
    column = columns[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ColumnError(name, f"column {name!r} is {column.type}, not text")
    return column.cast(kind).cast(pa.large_string()).combine_chunks().fill_null("")
