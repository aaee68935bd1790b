"""Signals of several columns, and which columns hold the losses of which model."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import ColumnError, SelectorError, numbers, require
from curation.selectors.signal_names import signal_of

MODELS = {"seed": "", "base": "base_"}
"""Model -> prefix of its loss columns. "seed": tuned on a random part of the pool; "base": before any tuning."""


def signals_of(*names: str | None) -> tuple[str, ...]:
    """The signals that these columns come from, each once, in order; none for a column of the pool itself."""
    found = (signal_of(name) for name in names if name)
    return tuple(dict.fromkeys(signal for signal in found if signal))


def names_of(columns: str | Sequence[str]) -> list[str]:
    """One column name, or several, as a list."""
    return [columns] if isinstance(columns, str) else list(columns)


def loss_column(model: str, name: str) -> str:
    """The column that holds `name` (nll, nll_noimg, el2n, ...) under `model`. Raises SelectorError for another model."""
    if model not in MODELS:
        raise SelectorError(f"model {model!r} is none of {', '.join(MODELS)}")
    return MODELS[model] + name


def losses(columns: pa.Table, model: str, *names: str) -> list[np.ndarray]:
    """The loss columns `names` under `model`, each float64[n] with NaN for what is missing. Raises ColumnError."""
    return [numbers(columns, loss_column(model, name)) for name in names]


def capabilities_of(columns: pa.Table, asked: Sequence[str] | None, prefix: str) -> list[str]:
    """The capabilities `asked` for, or all that have a column `prefix`<capability>. Raises ColumnError, SelectorError."""
    scored = [name.removeprefix(prefix) for name in columns.column_names if name.startswith(prefix)]
    found = scored if asked is None else list(asked)
    if not found:
        why = f"there is no column {prefix}<capability>" if asked is None else "capabilities is an empty list"
        raise ColumnError(f"{prefix}*", f"no capability to select by: {why}")
    require(columns, [prefix + name for name in found])
    if len(set(found)) != len(found):
        raise SelectorError(f"capabilities contain a duplicate: {found}")
    return found
