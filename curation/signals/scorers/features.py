"""What a score net reads of each sample: vectors as they are, numbers scaled to [-1, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import is_vector, matrix

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from curation.pool.read import Pool


class FeatureError(ValueError):
    """Columns that cannot be features: in no signal, neither vectors nor numbers, or known for no sample."""


@dataclass(frozen=True)
class Features:
    """Columns side by side: `parts` [n, d_i] of a pool of n samples, `known` bool[n] where all have a value.

    identities: of the signals that hold them.
    """

    parts: list[np.ndarray]
    known: np.ndarray
    identities: list[str]

    @property
    def dims(self) -> int:
        """Numbers of one sample."""
        return sum(part.shape[1] for part in self.parts)

    def of(self, rows: Any, device: Any = "cpu") -> "torch.Tensor":
        """float32 [m, dims] of the samples at `rows` (int64[m] or a slice)."""
        import torch

        joined = np.concatenate([np.asarray(part[rows], np.float32) for part in self.parts], axis=1)
        return torch.from_numpy(joined).to(device)


def read_features(pool: "Pool", signals: Sequence[Path], columns: str | Sequence[str]) -> Features:
    """The features `columns`, from the first of the signal directories that holds each.

    A number is scaled so that the lowest of the pool is -1 and the highest 1 (all 0 where they are equal).
    Raises FeatureError, and SignalError for a signal that is not finished or of another pool.
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names:
        raise FeatureError("features is empty: name at least one column")
    folders = [signals] if isinstance(signals, str | Path) else list(signals)
    tables = {Path(folder): read_signal(Path(folder), pool.hash) for folder in folders}
    parts, known, identities = [], np.ones(len(pool), bool), []
    for name in names:
        folder = next((folder for folder, table in tables.items() if name in table.column_names), None)
        if folder is None:
            held = {str(folder): table.column_names[1:] for folder, table in tables.items()}
            raise FeatureError(f"column {name!r} is in none of the signals, which hold {held}")
        values, has = _part(tables[folder], name)
        parts.append(values)
        known &= has
        identities.append(read_metadata(folder)["identity"])
    if not known.any():
        raise FeatureError(f"no sample of the pool has a value in all of the columns {', '.join(names)}")
    return Features(parts, known, identities)


def _part(table: "pa.Table", name: str) -> tuple[np.ndarray, np.ndarray]:
    """(numbers [n, d], known bool[n]) of one column."""
    import pyarrow as pa

    kind = table[name].type
    if is_vector(kind):
        return matrix(table, name)
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise FeatureError(f"column {name!r} must hold vectors or numbers, got {kind}")
    values = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 0.0)
    scaled = np.zeros(len(values), np.float32)
    if high > low:
        scaled[known] = 2 * (values[known] - low) / (high - low) - 1
    return scaled[:, None], known
