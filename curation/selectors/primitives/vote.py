"""Percentile votes over several columns, and mean ranks to break their ties."""

import numpy as np


def votes(values: np.ndarray, share: float, percentile: bool = False) -> np.ndarray:
    """int64[n]: in how many of the columns float64[t, n] a row is among the highest `share` (0 < share <= 1).

    A column votes for the rows at or above its floor(share · n)-th highest value (at least the highest); with
    `percentile` for those at or above the (1 - share)-quantile with linear interpolation, which the highest
    1 + floor(share · (n - 1)) rows reach. NaN gets no vote and does not count in n.
    """
    total = np.zeros(values.shape[1], np.int64)
    for column in values:
        known = np.sort(column[~np.isnan(column)])
        if len(known):
            total += column >= known[len(known) - _voted(len(known), share, percentile)]
    return total


def _voted(n: int, share: float, percentile: bool) -> int:
    """How many of n different values get a vote; shares such as 3 / 10 are not exact, hence the 1e-9."""
    return 1 + int(share * (n - 1) + 1e-9) if percentile else max(int(share * n + 1e-9), 1)


def rank_sums(values: np.ndarray) -> np.ndarray:
    """int64[n]: twice the sum of a row's ranks in the columns float64[t, n] (1 = highest, ties their mean).

    Twice, so that it is whole. NaN ranks below every number; the NaN of a column share their rank.
    """
    total = np.zeros(values.shape[1], np.int64)
    for column in values:
        lowered = -np.where(np.isnan(column), -np.inf, column)
        ranked = np.sort(lowered)
        total += np.searchsorted(ranked, lowered, "left") + np.searchsorted(ranked, lowered, "right") + 1
    return total
