"""The inner loop of round-robin, compiled by numba (extra `fast`): the same picks as `round_robin.deal` in numpy."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from curation.selectors.contract import SelectorError


class Compiled(NamedTuple):
    """The functions below, compiled."""

    deal: Callable[..., tuple[np.ndarray, np.ndarray]]


@cache
def compiled() -> Compiled:
    """Compiled on first use and kept beside this file. Raises SelectorError where numba is not installed."""
    try:
        import numba
    except ImportError as error:
        raise SelectorError("engine 'numba' needs numba: pip install winnow[fast], or use engine 'numpy'") from error
    return Compiled(numba.njit(cache=True)(deal))


def deal(
    rows: np.ndarray,
    starts: np.ndarray,
    positions: np.ndarray,
    order: np.ndarray,
    level: np.ndarray,
    main: np.ndarray,
    second: np.ndarray,
    tie: np.ndarray,
    alive: np.ndarray,
    share: int,
    carry: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows taken and their bins; bins are visited in `order`, `positions` is empty where entries have none."""
    quota, debt, left, done = max(share // max(len(order), 1), 1), 0, share, 0
    most = 0
    for b in order:
        most = max(most, starts[b + 1] - starts[b])
    here, found = np.empty(most, np.uint8), np.empty(most, np.int64)
    taken, bins = np.empty(len(alive), rows.dtype), np.empty(len(alive), np.int64)
    for place in range(len(order)):
        if left <= 0:
            break
        b = order[place]
        first, size = starts[b], starts[b + 1] - starts[b]
        allowed = quota + debt if carry else -(-left // (len(order) - place))
        reached = np.zeros(256, np.int64)
        for e in range(size):
            row = rows[first + e]
            value = np.int64(level[row]) if alive[row] else 0
            if value > 0 and len(positions) > 0:
                ahead = 15 - min(np.int64(positions[first + e]), 15)
                value = (value + 16) // 17 + 16 * ahead if ahead > 0 else 1
            here[e] = value
            reached[value] += 1
        lowest, above = 256, 0
        while above < allowed and lowest > 1:
            lowest -= 1
            above += reached[lowest]
        got = 0
        for e in range(size):
            if here[e] >= lowest:
                found[got] = first + e
                got += 1
        who = rows[found[:got]]
        turn = np.argsort(tie[who], kind="mergesort")
        turn = turn[np.argsort(-second[who[turn]], kind="mergesort")]
        turn = turn[np.argsort(-main[who[turn]], kind="mergesort")]
        if len(positions) > 0:
            turn = turn[np.argsort(positions[found[turn]], kind="mergesort")]
        got = min(got, allowed)
        for k in range(got):
            taken[done + k], bins[done + k] = who[turn[k]], b
            alive[who[turn[k]]] = False
        done += got
        left -= got
        debt = allowed - got
    return taken[:done].copy(), bins[:done].copy()
