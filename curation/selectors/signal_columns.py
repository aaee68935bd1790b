"""The signals of several columns, and the columns of a model's losses and of capability scores."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import ColumnError, SelectorError, numbers, one_of, require
from curation.selectors.signal_names import signal_of

MODELS = {"seed": "", "base": "base_"}
"""Model -> prefix of its loss columns. "seed": tuned on a random part of the pool; "base": not tuned."""


def signals_of(*names: str | None) -> tuple[str, ...]:
    """The signals that these columns come from, each once, in order; a column of the pool itself has none."""
    signals = (signal_of(name) for name in names if name)
    return tuple(dict.fromkeys(signal for signal in signals if signal))


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
