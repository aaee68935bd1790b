"""Means, their errors and weights: pure functions on arrays, tested against closed forms and scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % (or other) confidence interval."""

    value: float
    low: float
    high: float


def mean(values: ArrayLike) -> float:
    """Arithmetic mean; ValueError for no values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("mean of no values")
    return float(array.mean())


def std(values: ArrayLike) -> float:
    """Sample standard deviation (n - 1 in the denominator); NaN, not 0, for fewer than two values."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1)) if array.size > 1 else math.nan


def stderr(values: ArrayLike) -> float:
    """Standard error of the mean, std / sqrt(n); NaN for fewer than two values."""
    return std(values) / math.sqrt(max(np.size(values), 1))


def stratified_stderr(values: ArrayLike, strata: Sequence[Any]) -> float | None:
    """Standard error of the mean of `values` when units are drawn within their strata: sqrt(sum n_h s_h^2)/n.

    None if no stratum has two units. A stratum of one unit adds nothing, as its variation is not known.
    """
    array = np.asarray(values, dtype=np.float64)
    groups = [array[rows] for rows in stratum_rows(strata) if len(rows) > 1]
    if not groups:
        return None
    return math.sqrt(sum(len(group) * group.var(ddof=1) for group in groups)) / array.size


def stratum_rows(strata: Sequence[Any]) -> list[NDArray[np.int64]]:
    """The positions of each stratum's units, strata in the order of their first appearance."""
    places: dict[Any, list[int]] = {}
    for at, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(at)
    return [np.array(rows, dtype=np.int64) for rows in places.values()]


def unit_weights(pools: Sequence[int | None]) -> NDArray[np.float64]:
    """float64[units] with sum 1: every pool has the same weight, and within a pool every unit."""
    counts = {pool: list(pools).count(pool) for pool in pools}
    return np.array([1 / (len(counts) * counts[pool]) for pool in pools])
