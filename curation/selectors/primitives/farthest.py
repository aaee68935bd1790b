"""Farthest-point sampling (greedy k-centre)."""

import numpy as np

from curation.selectors.contract import SizeError
from curation.selectors.primitives.cosine import cosines, mean_direction

PAIR_LIMIT = 1_000_000_000
"""Rows times picks; a few minutes at 512 dimensions on one core."""


def farthest_point(units: np.ndarray, count: int, start: int | None = None) -> np.ndarray:
    """int64[min(count, n)]: places in `units` [n, d]; each has the lowest cosine to its nearest earlier pick.

    The first is `start`, or the row nearest to the mean direction. Ties go to the earlier row, so a larger
    count starts with the picks of a smaller one. Cost n · count · d. Raises SizeError above PAIR_LIMIT pairs.
    """
    count = min(count, len(units))
    refuse_pairs(len(units), count)
    picks = np.empty(count, np.int64)
    nearest = np.full(len(units), -np.inf)
    for place in range(count):
        if place:
            at = int(np.argmin(nearest))
        else:
            at = int(np.argmax(cosines(units, mean_direction(units)))) if start is None else start
        picks[place] = at
        np.maximum(nearest, cosines(units, units[at : at + 1])[:, 0], out=nearest)
        nearest[at] = np.inf
    return picks


def refuse_pairs(n: int, count: int) -> None:
    """Raises SizeError if `count` picks among n rows need more than PAIR_LIMIT pairs."""
    if n * count > PAIR_LIMIT:
        raise SizeError(
            n * count,
            PAIR_LIMIT,
            "pairs of farthest-point sampling",
            "pick inside groups (clusters) or from a shortlist",
        )
