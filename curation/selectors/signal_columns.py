"""Which columns hold the losses of a model and the scores of capabilities."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import ColumnError, SelectorError, numbers, one_of, require

MODELS = {"seed": "", "base": "base_"}
"""Model -> prefix of its loss columns. "seed": tuned on a random part of the pool; "base": not tuned."""


def columns_read(*names: str | None) -> tuple[str, ...]:
    """Those of the names that are given, each once, in order."""
    return tuple(dict.fromkeys(name for name in names if name))


def names_of(columns: str | Sequence[str]) -> list[str]:
    """One column name, or several, as a list."""
    return [columns] if isinstance(columns, str) else list(columns)


def loss_column(model: str, name: str) -> str:
    """The column of the loss `name` (nll, nll_noimg, el2n, ...) under `model`. Raises SelectorError."""
    one_of("model", model, tuple(MODELS))
    return MODELS[model] + name


def losses(columns: pa.Table, model: str, *names: str) -> list[np.ndarray]:
    """The loss columns `names` under `model`, each float64[n], NaN where missing. Raises ColumnError."""
    return [numbers(columns, loss_column(model, name)) for name in names]


def capabilities_of(columns: pa.Table, requested: Sequence[str] | None, prefix: str) -> list[str]:
    """`requested`, or all capabilities with a column `prefix`<name>. Raises ColumnError, SelectorError."""
    scored = [name.removeprefix(prefix) for name in columns.column_names if name.startswith(prefix)]
    names = scored if requested is None else list(requested)
    if not names:
        why = f"there is no column {prefix}<capability>" if requested is None else "capabilities is empty"
        raise ColumnError(f"{prefix}*", f"no capability to select by: {why}")
    require(columns, [prefix + name for name in names])
    if len(set(names)) != len(names):
        raise SelectorError(f"capabilities must differ, got {names}")
    return names
