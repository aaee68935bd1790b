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
    levels: np.ndarray,
    main: np.ndarray,
    second: np.ndarray,
    tie: np.ndarray,
    alive: np.ndarray,
    share: int,
    carry: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows taken and their bins; `levels` uint8[m] of each entry, `positions` empty where entries have none."""
    count = len(starts) - 1
    reached = np.zeros((count, 256), np.int32)
    sizes = np.zeros(count, np.int64)
    for b in range(count):
        for e in range(starts[b], starts[b + 1]):
            reached[b, levels[e]] += 1
        sizes[b] = starts[b + 1] - starts[b] - reached[b, 0]
    order = np.argsort(sizes, kind="mergesort")
    order = order[np.sum(sizes == 0) :]
    quota, debt, left, done = max(share // max(len(order), 1), 1), 0, share, 0
    taken, bins = np.empty(max(sizes.sum(), 0), rows.dtype), np.empty(max(sizes.sum(), 0), np.int64)
    for place in range(len(order)):
        if left <= 0:
            break
        b = order[place]
        allowed = quota + debt if carry else -(-left // (len(order) - place))
        level, above, wanted = 256, 0, allowed
        while True:
            while above < wanted and level > 1:
                level -= 1
                above += reached[b, level]
            found = np.empty(above, np.int64)
            got = 0
            for e in range(starts[b], starts[b + 1]):
                if levels[e] >= level and alive[rows[e]]:
                    found[got] = e
                    got += 1
            if got >= allowed or level == 1:
                break
            wanted = above + allowed - got
        found = found[:got]
        who = rows[found]
        turn = np.argsort(tie[who], kind="mergesort")
        turn = turn[np.argsort(-second[who[turn]], kind="mergesort")]
        turn = turn[np.argsort(-main[who[turn]], kind="mergesort")]
        if len(positions):
            turn = turn[np.argsort(positions[found[turn]], kind="mergesort")]
        got = min(got, allowed)
        for k in range(got):
            taken[done + k], bins[done + k] = who[turn[k]], b
            alive[who[turn[k]]] = False
        done += got
        left -= got
        debt = allowed - got
    return taken[:done].copy(), bins[:done].copy()
