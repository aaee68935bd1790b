"""Cosines and exponentials that are bitwise equal on every machine.

A matrix product sums in an order that depends on the library, the threads and the CPU. Unit vectors are
therefore rounded to a grid of 2^-24: a product of two entries is a multiple of 2^-48, and sums of such
products over two unit vectors stay near 1, so every partial sum is exact in float64, in any order. Cosines
are rounded to `STEP`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import SelectorError, vectors

GRID = 2.0**24
STEP = 2.0**-18
"""Resolution of cosines, 4e-6: coarser than the error of `unit` (2e-6 at 20,000 dimensions)."""

_BLOCK = 4096

Lookup = Callable[[np.ndarray], np.ndarray]
"""Positions int64[m] -> unit vectors float64[m, d] on the grid."""


def unit(values: np.ndarray) -> np.ndarray:
    """float64[n, d]: the rows of a finite [n, d] scaled to length 1, on the grid; zero rows stay zero."""
    values = np.array(values, dtype=np.float64)
    # rounding the length to float32 hides the order in which the squares are summed
    length = np.sqrt((values * values).sum(axis=1)).astype(np.float32).astype(np.float64)[:, None]
    values /= np.where(length > 0, length, 1.0)
    values *= GRID  # in place: half of the time of COINCIDE and D2 at full size is spent here
    np.rint(values, out=values)
    values *= 1 / GRID
    return values


def lookup(*matrices: np.ndarray) -> Lookup:
    """Unit vectors by position: parts [n, d_i] scaled to length 1 each, joined, and scaled again."""

    def block(rows: np.ndarray) -> np.ndarray:
        parts = [unit(matrix[rows]) for matrix in matrices]
        return parts[0] if len(parts) == 1 else unit(np.concatenate(parts, axis=1))

    def units(rows: np.ndarray) -> np.ndarray:
        # a block at a time: scaling takes several times the memory of its result
        found = np.empty((len(rows), sum(matrix.shape[1] for matrix in matrices)))
        for start in range(0, len(rows), _BLOCK):
            found[start : start + _BLOCK] = block(rows[start : start + _BLOCK])
        return found

    return units


def joined(columns: pa.Table, names: str | Sequence[str]) -> tuple[Lookup, np.ndarray]:
    """(unit vectors by position, known bool[n]) of a vector column, or of several joined (known in all).

    Raises ColumnError, and SelectorError without any name.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise SelectorError("vectors: at least one vector column must be named")
    parts = [vectors(columns, name) for name in names]
    return lookup(*(values for values, _ in parts)), np.logical_and.reduce([known for _, known in parts])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[n, m] in [-1, 1], rounded to `STEP`, of unit vectors [n, d] and [m, d] on the grid."""
    cosine = a @ b.T
    np.rint(np.multiply(cosine, 1 / STEP, out=cosine), out=cosine)
    return np.clip(np.multiply(cosine, STEP, out=cosine), -1.0, 1.0, out=cosine)


def mean_direction(units: np.ndarray) -> np.ndarray:
    """float64[1, d]: the direction of the mean of unit vectors [n, d], on the grid."""
    return unit(units.sum(axis=0, keepdims=True))  # a sum of multiples of 2^-24 is exact


# ln 2 in two parts (fdlibm's), the high one with trailing zero bits, so that its product with k is exact
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_INVERSE_FACTORIALS = np.cumprod([1.0, *(1.0 / n for n in range(1, 15))])[::-1]


def exp(x: np.ndarray) -> np.ndarray:
    """e^x as float64, within 2 units in the last place, by single additions and products.

    numpy's own exp differs in the last bit between SIMD variants, which could decide between two rows.
    """
    x = np.clip(np.asarray(x, dtype=np.float64), -745.0, 709.0)
    k = np.rint(x / np.log(2.0))
    rest = (x - k * _LN2_HIGH) - k * _LN2_LOW
    total = np.full(x.shape, _INVERSE_FACTORIALS[0])
    for factor in _INVERSE_FACTORIALS[1:]:
        total = total * rest + factor
    return np.ldexp(total, k.astype(np.int64))
