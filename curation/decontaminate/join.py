"""Joins of integer keys."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def matching(left: Numbers, right: Numbers) -> tuple[Numbers, Numbers]:
    """(i, j) of all pairs with left[i] == right[j], in the order of `left`."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    first = np.searchsorted(ordered, left, side="left")
    counts = np.searchsorted(ordered, left, side="right") - first
    return np.repeat(np.arange(len(left)), counts), order[expanded(first, counts)]


def expanded(first: Numbers, counts: Numbers) -> Numbers:
    """first[k], first[k] + 1, ... (counts[k] of them) for each k, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts) + np.repeat(first, counts)
