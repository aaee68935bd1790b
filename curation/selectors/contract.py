"""The contract of selectors: `select(columns, budget, seed, **params) -> Selection`, a pure function.

A selection names rows by their value in the column `row`, never by position. Ties are broken by a hash of
seed and id, never by input order, so a selection is the same for every order of the rows, every CPU and every
PYTHONHASHSEED.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

MAX_EXPONENT = 99
"""Powers of ten of a budget. Decimal accepts 1e999999999, whose integer would fill the memory."""


class SelectorError(ValueError):
    """A selection that is not possible: unknown selector or parameter, invalid value."""


class BudgetError(SelectorError):
    """The budget cannot be met: `requested` rows, of which only `available` exist."""

    def __init__(self, requested: int, available: int, why: str = "") -> None:
        super().__init__(
            f"requested {requested:,} rows, only {available:,} available{': ' if why else ''}{why}"
            if requested > 0
            else f"the budget must be at least 1 row, got {requested:,}"
        )
        self.requested, self.available = requested, available


class ColumnError(SelectorError):
    """A column that the selector needs is missing or has the wrong type; `column` is its name."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


class SizeError(SelectorError):
    """A step of quadratic cost is refused: its `size` (rows or pairs) exceeds the `limit`."""

    def __init__(self, size: int, limit: int, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {size:,} exceeds the limit of {limit:,}; {remedy}")
        self.size, self.limit = size, limit


@dataclass(frozen=True)
class Selection:
    """`rows` int64[budget + surplus] in pick order, one row of `reason` for each; `notes` are counts.

    notes: what was left out, and why. surplus: rows beyond the budget that the method returns on purpose,
    mostly 0.
    """

    rows: np.ndarray
    reason: pa.Table
    notes: dict[str, int] = field(default_factory=dict)
    surplus: int = 0

    def __post_init__(self) -> None:
        if self.rows.dtype != np.int64 or self.rows.ndim != 1:
            raise TypeError(f"rows must be int64[n], got {self.rows.dtype}{list(self.rows.shape)}")
        if self.reason.num_rows != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows but {self.reason.num_rows} reasons")
        if (np.diff(np.sort(self.rows)) == 0).any():
            raise ValueError("a row was picked twice")


@dataclass(frozen=True)
class Published:
    """What a method is published to pick by, for the table that `python -m curation.selectors.parity` prints.

    rule: the published rule in one line. source: the paper, and whether its released code was read. variants:
    parameters of the selector by the name of the variant; the first is the published one, for the others
    `differs` says what differs from it.
    """

    rule: str
    source: str
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"published": {}})
    differs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Selector:
    """The record that a selector's file declares as `SELECTOR`: its function and its properties.

    needs: the signals that it reads, or a function of its parameters that returns them. reads: the same, by
    the names of columns (a column of the pool itself needs no signal). cost: its class, C0 to C6 (see
    `registry.Description`). targeted: it sees validation data of the benchmarks it is judged on. nested: a
    smaller budget gives the first picks of a larger one; or a function of its parameters that says whether.
    published: the method behind it; None where there is none.
    """

    select: Callable[..., Selection]
    needs: tuple[str, ...] | Callable[..., tuple[str, ...]] = ()
    reads: tuple[str, ...] | Callable[..., tuple[str, ...]] = ()
    cost: str = "unknown"
    targeted: bool = False
    nested: bool | Callable[..., bool] = False
    published: Published | None = None

    @classmethod
    def of(cls, function: Callable[..., Selection]) -> "Selector":
        """The record of `function`: `SELECTOR` of its module, if that names the function.

        Else (a user's own selector) it is made from the module's constants NEEDS, COST, TARGETED and NESTED,
        or its functions `needs(**params)`, `reads(**params)` and `nested(**params)`; each is optional.
        """
        module = sys.modules.get(function.__module__)
        declared = getattr(module, "SELECTOR", None)
        if isinstance(declared, cls) and declared.select is function:
            return declared
        return cls(
            function,
            needs=getattr(module, "needs", getattr(module, "NEEDS", ())),
            reads=getattr(module, "reads", ()),
            cost=getattr(module, "COST", "unknown"),
            targeted=getattr(module, "TARGETED", False),
            nested=getattr(module, "nested", getattr(module, "NESTED", False)),
        )

    def with_params(self, property: str, params: Mapping[str, Any]) -> tuple[str, ...]:
        """`needs` or `reads` with these parameters."""
        value = getattr(self, property)
        return tuple(value(**params) if callable(value) else value)

    def is_nested(self, params: Mapping[str, Any]) -> bool:
        """Whether, with these parameters, a smaller budget gives the first picks of a larger one."""
        return self.nested(**params) if callable(self.nested) else self.nested


def resolve_budget(budget: str | int, pool_size: int) -> int:
    """`"30%"` -> floor(30 / 100 · pool_size), computed exactly; `200` or `"200"` -> 200.

    Raises BudgetError for a budget that the pool cannot meet, SelectorError for any other text.
    """
    number, is_share = share_or_rows(budget)
    rows = int(number * pool_size / 100) if is_share else int(number)
    if is_share and number > 100:
        raise BudgetError(max(rows, pool_size + 1), pool_size, f"{number}% is more than the pool")
    check_budget(rows, pool_size)
    return rows


def share_or_rows(budget: str | int) -> tuple[Decimal, bool]:
    """The number of a budget such as `"30%"` or `200`, and whether it is a share. Raises SelectorError."""
    text = str(budget).strip()
    is_share = text.endswith("%")
    number = number_of(text.removesuffix("%"))
    if isinstance(budget, bool) or not (number.is_finite() and (is_share or number == int(number))):
        raise SelectorError(f"budget must be a share such as '30%' or a number of rows, got {budget!r}")
    return number, is_share


def number_of(text: str) -> Decimal:
    """The number in the text of a budget, NaN where it is none. Raises SelectorError if out of range."""
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return Decimal("NaN")
    if number.is_finite() and abs(number.adjusted()) > MAX_EXPONENT:
        raise SelectorError(f"the budget {text[:80]!r} is out of range")
    return number


def check_budget(budget: int, available: int, why: str = "") -> None:
    """Raises BudgetError unless 1 <= budget <= available."""
    if not 1 <= budget <= available:
        raise BudgetError(budget, available, why)


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises SelectorError unless the parameter `name` has one of the values `allowed`."""
    if value not in allowed:
        raise SelectorError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def require(columns: pa.Table, names: Iterable[str]) -> None:
    """Raises ColumnError, which lists the columns, for the first of `names` that is missing."""
    for name in names:
        if name not in columns.column_names:
            raise ColumnError(name, f"column {name!r} is missing from {', '.join(columns.column_names)}")


def numbers(columns: pa.Table, name: str, single: bool = False) -> np.ndarray:
    """A numeric column as float64[n] (float32[n] with `single`), NaN where missing; read-only.

    Integers beyond 2^53 become the nearest float. Raises ColumnError.
    """
    require(columns, [name])
    column = columns[name]
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise ColumnError(name, f"column {name!r} must be numeric, got {kind}")
    return column.cast(pa.float32() if single else pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def bounded(
    columns: pa.Table, name: str, low: float = -np.inf, high: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """A numeric column as (float64[n], outside bool[n]): NaN if null, NaN, infinite or out of bounds.

    `outside` marks finite values that are not in [`low`, `high`]. Raises ColumnError.
    """
    values = numbers(columns, name)
    finite = np.isfinite(values)
    outside = finite & ~((values >= low) & (values <= high))
    return np.where(finite & ~outside, values, np.nan), outside


def flags(columns: pa.Table, name: str) -> np.ndarray:
    """A boolean column as bool[n]; null is False. Raises ColumnError."""
    require(columns, [name])
    if not pa.types.is_boolean(columns[name].type):
        raise ColumnError(name, f"column {name!r} must be bool, got {columns[name].type}")
    return columns[name].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)


def vectors(columns: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A vector column: (float16 or float32 [n, d], known bool[n]).

    The array is a view of the table's memory (also of a memory map) where the column is one chunk; several
    chunks are copied into one. Rows that are null or not finite are not known, and their values are
    undefined. Raises ColumnError unless the type is a fixed-size list of float16 or float32.
    """
    require(columns, [name])
    kind = columns[name].type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type not in (pa.float16(), pa.float32()):
        raise ColumnError(
            name, f"column {name!r} must be vectors (fixed-size lists of float16 or float32), got {kind}"
        )
    chunks = [_matrix(chunk, kind.list_size) for chunk in columns[name].chunks if len(chunk)]
    known = [np.asarray(chunk.is_valid()) for chunk in columns[name].chunks if len(chunk)]
    if not chunks:
        return np.empty((0, kind.list_size), np.float16), np.empty(0, bool)
    values = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return values, np.concatenate(known) & _finite_rows(values)


def _matrix(chunk: pa.FixedSizeListArray, width: int) -> np.ndarray:
    # .values is the whole child array, whatever the slice; .flatten() would drop null rows
    values = (
        chunk.values.to_numpy(zero_copy_only=True)
        if not chunk.values.null_count
        else _nan_filled(chunk.values)
    )
    return values.reshape(-1, width)[chunk.offset : chunk.offset + len(chunk)]


def _nan_filled(values: pa.Array) -> np.ndarray:
    return np.where(np.asarray(values.is_valid()), values.to_numpy(zero_copy_only=False), np.nan)


def _finite_rows(values: np.ndarray, block: int = 1 << 16) -> np.ndarray:
    parts = [np.isfinite(values[start : start + block]).all(axis=1) for start in range(0, len(values), block)]
    return np.concatenate(parts)


def row_numbers(columns: pa.Table) -> np.ndarray:
    """The `row` column as int64[n]. Raises ColumnError."""
    require(columns, ["row"])
    return columns["row"].cast(pa.int64()).to_numpy()


def in_row_order(columns: pa.Table) -> pa.Table:
    """The table by ascending `row`, so that ties between equal keys do not depend on the input order."""
    rows = row_numbers(columns)
    return columns.take(np.argsort(rows, kind="stable")) if (np.diff(rows) < 0).any() else columns


def sources_of(columns: pa.Table, picks: np.ndarray) -> pa.Table:
    """A table with the column `source`, for the rows at the positions `picks`. Raises ColumnError."""
    require(columns, ["source"])
    return columns.select(["source"]).take(picks)


def texts(columns: pa.Table, name: str) -> pa.Array:
    """A text column as one string array, null as "". Raises ColumnError."""
    require(columns, [name])
    column = columns[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ColumnError(name, f"column {name!r} must be text, got {column.type}")
    names = column.cast(kind).cast(pa.large_string()).combine_chunks()
    return names.fill_null("") if names.null_count else names
