"""Vectors with their own lengths as whole numbers, so that sums and distances are equal on every machine.

Values are divided by a power of two and rounded to whole numbers so small that any sum of their products over
the d entries is exact in float64, whatever the order of the additions.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation.selectors.contract import vectors

_BLOCK = 1 << 14


@dataclass(frozen=True)
class RawVectors:
    """`values` float16 or float32 [n, d] in units of `step`; `bits`, of the largest whole number."""

    values: np.ndarray
    step: float
    bits: int

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """float64[m, d]: the vectors at the positions `rows` int64[m], in steps: whole numbers."""
        return np.rint(self.values[rows].astype(np.float64) / self.step)


def raw(columns: pa.Table, name: str) -> tuple[RawVectors, np.ndarray]:
    """(the vectors of the column `name`, known bool[n]).

    The resolution is 2^-19 of the largest entry at 4,096 dimensions, 2^-24 below 32: float16 itself has 2^-11
    of each entry. Raises ColumnError.
    """
    values, known = vectors(columns, name)
    bits = min(24, (51 - math.ceil(math.log2(max(values.shape[1], 1)))) // 2)
    rows = np.flatnonzero(known)
    largest = max(
        (float(np.abs(values[rows[s : s + _BLOCK]]).max()) for s in range(0, len(rows), _BLOCK)), default=0.0
    )
    exponent = math.frexp(largest)[1] if largest else 0
    return RawVectors(values, math.ldexp(1.0, exponent - bits), bits), known


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[n, m]: Euclidean distances, in steps, of vectors [n, d] and [m, d] of one `RawVectors`."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None]
    return np.sqrt(squares - 2.0 * (a @ b.T))
