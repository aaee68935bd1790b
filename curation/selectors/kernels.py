"""The inner loops of round-robin, compiled by numba (extra `fast`): the same picks as `round_robin` in numpy."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from curation.selectors.contract import SelectorError


class Compiled(NamedTuple):
    """The functions below, compiled."""

    group: Callable[..., tuple[np.ndarray, np.ndarray]]
    deal: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


@cache
def compiled() -> Compiled:
    """Compiled on first use and kept beside this file. Raises SelectorError where numba is not installed."""
    try:
        import numba
    except ImportError as error:
        raise SelectorError("engine 'numba' needs numba: pip install winnow[fast], or use engine 'numpy'") from error
    jit = numba.njit(cache=True)
    return Compiled(jit(group), jit(deal))


def group(rows: np.ndarray, codes: np.ndarray, count: int, place: np.ndarray, ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`Bins.group` as two counting sorts: entries by place, then by bin. `place` is 0xFFFFFFFF for rows not ranked."""
    absent, n = np.uint32(0xFFFFFFFF), len(ranked)
    ends = np.zeros(n + 1, np.int64)
    starts = np.zeros(count + 1, np.int64)
    for e in range(len(rows)):
        at = place[rows[e]]
        if at != absent:
            ends[np.int64(at) + 1] += 1
            starts[np.int64(codes[e]) + 1] += 1
    ends, starts = np.cumsum(ends), np.cumsum(starts)
    by_place = np.empty(ends[n], np.int32)
    free = ends[:n].copy()
    for e in range(len(rows)):
        at = place[rows[e]]
        if at != absent:
            by_place[free[at]] = codes[e]
            free[at] += 1
    grouped = np.empty(ends[n], ranked.dtype)
    free = starts[:count].copy()
    for at in range(n):
        for e in range(ends[at], ends[at + 1]):
            code = by_place[e]
            grouped[free[code]] = ranked[at]
            free[code] += 1
    return grouped, starts


def deal(
    rows: np.ndarray, starts: np.ndarray, alive: np.ndarray, share: int, carry: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`Queue.deal`: the queue's rows and starts without the rows taken before, the rows taken now and their bins."""
    count, kept = len(starts) - 1, 0
    left_rows, left_starts = np.empty_like(rows), np.empty_like(starts)
    for b in range(count):
        left_starts[b] = kept
        for e in range(starts[b], starts[b + 1]):
            if alive[rows[e]]:
                left_rows[kept] = rows[e]
                kept += 1
    left_starts[count] = kept
    left_rows = left_rows[:kept]
    sizes = left_starts[1:] - left_starts[:-1]
    order = np.argsort(sizes, kind="mergesort")
    order = order[np.sum(sizes == 0) :]
    quota, debt, left, done = max(share // max(len(order), 1), 1), 0, share, 0
    taken, bins = np.empty(kept, rows.dtype), np.empty(kept, np.int64)
    for place in range(len(order)):
        if left <= 0:
            break
        b = order[place]
        allowed = quota + debt if carry else -(-left // (len(order) - place))
        got = 0
        for e in range(left_starts[b], left_starts[b + 1]):
            if got == allowed:
                break
            row = left_rows[e]
            if alive[row]:
                alive[row] = False
                taken[done], bins[done] = row, b
                done += 1
                got += 1
        left -= got
        debt = allowed - got
    return left_rows, left_starts, taken[:done].copy(), bins[:done].copy()
