"""Percentile votes over several columns, and mean ranks to break their ties."""

import numpy as np


def votes(values: np.ndarray, share: float) -> np.ndarray:
    """int64[n]: in how many of the columns float64[t, n] a row is among the highest `share` (0 < share <= 1).

    The bar of a column is its floor(share · n)-th highest value (at least the highest), and a row that equals it has
    the vote too. NaN has none and does not count into n.
    """
    total = np.zeros(values.shape[1], np.int64)
    for column in values:
        there = np.sort(column[~np.isnan(column)])
        if len(there):
            total += column >= there[len(there) - max(int(share * len(there) + 1e-9), 1)]
    return total


def rank_sums(values: np.ndarray) -> np.ndarray:
    """int64[n]: twice the sum over columns float64[t, n] of the rank of each row (1 = highest), ties sharing their mean.

    Twice, so that it is whole. NaN ranks below every number, together with the other NaN of its column.
    """
    total = np.zeros(values.shape[1], np.int64)
    for column in values:
        lowered = -np.where(np.isnan(column), -np.inf, column)
        ranked = np.sort(lowered)
        total += np.searchsorted(ranked, lowered, "left") + np.searchsorted(ranked, lowered, "right") + 1
    return total
