"""Features of a sample for the regressors: numeric indicators and principal components of its vectors.

InstructionGPT-4 (arXiv 2308.12067) uses CLIP score, length, reward and judge score, and six components each
of image and text features: the CLIP vector of the image, and the last token's state of a chat model for the
text, where ours defaults to the CLIP vector. Its code fits the PCA anew on each probed subset; here it is
fitted once, on the pool. Its length is in characters, and its scaling is FACTORS; ours defaults to tokens and
to standardised columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation.signals.core.table import SignalError
from curation.signals.core.vector_files import matrix

INDICATORS = ("clip_score", "answer_tokens", "reward", "judge")
VECTORS = ("clip_image", "clip_text")
CHARACTERS = "answer_characters"
"""Indicator: characters of the answers, counted from the pool."""
FACTORS = {"reward": 10.0, CHARACTERS: 100 / 1009}
"""What InstructionGPT-4's released code multiplies its features by, the others by 1.

Its longest caption has 1009 characters: 10 · length / 1009 is stored, and multiplied by 10 again.
"""
SCALINGS = ("standard", "published")
MOST_DIMS = 8192
"""Most dimensions of a vector column: the PCA holds their covariance, half a GB of float64."""
_BLOCK = 1 << 14
"""Rows converted to float64 at a time."""


@dataclass(frozen=True)
class Pca:
    """mean float64 [d], components float64 [c, d] (orthonormal), variance float64 [c] of each."""

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray

    def transform(self, values: np.ndarray, known: np.ndarray, scaling: str = "standard") -> np.ndarray:
        """float64 [n, c], the mean (0) if not known.

        In units of the first component's standard deviation with the scaling "standard", else of the values.
        """
        first = float(self.variance[0]) if len(self.variance) and scaling == "standard" else 0.0
        scale = np.sqrt(first) if first > 0 else 1.0
        out = np.zeros((len(values), len(self.components)))
        for rows, block in _blocks(values, known):
            out[rows] = (block - self.mean) @ self.components.T / scale
        return out


@dataclass(frozen=True)
class Features:
    """values: float32 [n, f]. imputed: number of rows without a value, by column. pca: by vector column."""

    values: np.ndarray
    names: list[str]
    imputed: dict[str, int]
    pca: dict[str, Pca]


def sample_features(
    table: pa.Table,
    indicators: Sequence[str] = INDICATORS,
    vectors: Sequence[str] = VECTORS,
    components: int = 6,
    scaling: str = "standard",
) -> Features:
    """Each indicator, then `components` of each vector column.

    scaling: "standard" gives each indicator mean 0 and deviation 1 over the pool, and the first component of
    a column deviation 1, by which its others are divided too; "published" multiplies indicators by FACTORS
    and leaves components as they are. Missing values (null, NaN, infinite, no vector) become the mean and are
    counted. Raises SignalError for an unknown scaling, and a column that does not exist, has no values or is
    not numeric.
    """
    if scaling not in SCALINGS:
        raise SignalError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}")
    vectors = vectors if components else ()
    if lacking := [name for name in (*indicators, *vectors) if name not in table.column_names]:
        raise SignalError(
            f"the feature columns {', '.join(lacking)} do not exist: compute their signals, or name others"
        )
    blocks, names = [], list(indicators)
    imputed: dict[str, int] = {}
    pca: dict[str, Pca] = {}
    for name in indicators:
        column, imputed[name] = _scaled(table, name, scaling)
        blocks.append(column[:, None])
    for name in vectors:
        values, known = matrix(table, name)
        known = known & np.isfinite(values).all(axis=1)
        pca[name], imputed[name] = fit_pca(values, known, components), int((~known).sum())
        blocks.append(pca[name].transform(values, known, scaling))
        names += [f"{name}_{k}" for k in range(blocks[-1].shape[1])]
    if not blocks:
        raise SignalError("no features: name indicators, or ask for components")
    return Features(np.concatenate(blocks, axis=1).astype(np.float32), names, imputed, pca)


def fit_pca(values: np.ndarray, known: np.ndarray, components: int) -> Pca:
    """The first min(`components`, d) principal components of the known rows, from their covariance.

    The entry of largest magnitude of each is positive, which fixes their signs. Raises SignalError for no
    known rows, or more than MOST_DIMS dimensions.
    """
    count, d = int(known.sum()), values.shape[1]
    if not count or d > MOST_DIMS:
        raise SignalError(
            f"a PCA needs vectors of at most {MOST_DIMS} dimensions, got {count} vectors of {d} dimensions"
        )
    mean = sum(block.sum(axis=0) for _, block in _blocks(values, known)) / count
    covariance = sum((block - mean).T @ (block - mean) for _, block in _blocks(values, known)) / count
    variance, axes = np.linalg.eigh(covariance)  # ascending
    variance, axes = variance[::-1][:components], axes.T[::-1][:components]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return Pca(mean, axes * signs[:, None], np.maximum(variance, 0))


def _blocks(values: np.ndarray, known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = np.flatnonzero(known)
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK], values[rows[start : start + _BLOCK]].astype(np.float64)


def _scaled(table: pa.Table, name: str, scaling: str) -> tuple[np.ndarray, int]:
    kind = table[name].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise SignalError(f"the indicator {name} is {kind}, not numeric")
    values = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = np.isfinite(values)
    if not known.any():
        raise SignalError(f"the indicator {name} has no values: name others")
    mean, spread = values[known].mean(), values[known].std()
    if scaling == "published":
        return np.where(known, values, mean) * FACTORS.get(name, 1.0), int((~known).sum())
    return np.where(known, (values - mean) / (spread if spread > 0 else 1.0), 0.0), int((~known).sum())
