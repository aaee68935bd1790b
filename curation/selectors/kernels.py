"""The inner loop of round-robin, compiled by numba (extra `fast`): the same picks as `round_robin.deal` in numpy."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from curation.selectors.contract import SelectorError


class Compiled(NamedTuple):
    """The functions below, compiled."""

    count: Callable[..., np.ndarray]
    subtract: Callable[..., None]
    deal: Callable[..., tuple[np.ndarray, np.ndarray]]


@cache
def compiled() -> Compiled:
    """Compiled on first use and kept beside this file. Raises SelectorError where numba is not installed."""
    try:
        import numba
    except ImportError as error:
        raise SelectorError("engine 'numba' needs numba: pip install winnow[fast], or use engine 'numpy'") from error
    jit = numba.njit(cache=True)
    return Compiled(jit(count), jit(subtract), jit(deal))


def count(rows: np.ndarray, starts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`Bins.count`."""
    sizes = np.zeros(len(starts) - 1, np.int64)
    for b in range(len(sizes)):
        for e in range(starts[b], starts[b + 1]):
            sizes[b] += wanted[rows[e]]
    return sizes


def subtract(codes: np.ndarray, starts: np.ndarray, level: np.ndarray, sizes: np.ndarray, rows: np.ndarray) -> None:
    """Take the candidates among `rows` out of `sizes`, with the entries by row."""
    for row in rows:
        if level[row] > 0:
            for e in range(starts[row], starts[row + 1]):
                sizes[codes[e]] -= 1


def deal(
    rows: np.ndarray,
    starts: np.ndarray,
    ahead: np.ndarray,
    positions: np.ndarray,
    narrowed: np.ndarray,
    clipped: bool,
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
    count, placed, most = len(order), len(positions) > 0, 0
    for b in order:
        most = max(most, starts[b + 1] - starts[b])
    here, found = np.empty(most, np.uint8), np.empty(most, np.int64)
    taken, bins = np.empty(len(alive), rows.dtype), np.empty(len(alive), np.int64)
    quota, debt, left, done = max(share // max(count, 1), 1), 0, share, 0
    for place in range(count):
        if left <= 0:
            break
        b = order[place]
        first, size = starts[b], starts[b + 1] - starts[b]
        allowed = quota + debt if carry else -(-left // (count - place))
        reached = np.zeros(256, np.int64)
        for e in range(size):
            value = np.int64(level[rows[first + e]])
            if placed:
                lead = np.int64(ahead[first + e])
                value = (np.int64(narrowed[value]) + lead) * np.int64(value > 0)
                if clipped and lead == 0:
                    value = min(value, 1)
            here[e] = value
            reached[value] += 1
        lowest, above, wanted = 256, 0, allowed
        while True:
            while above < wanted and lowest > 1:
                lowest -= 1
                above += reached[lowest]
            got = 0
            for e in range(size):
                if here[e] >= lowest and alive[rows[first + e]]:
                    found[got] = first + e
                    got += 1
            if got >= allowed or lowest == 1:
                break
            wanted = above + allowed - got  # some were taken in a bin before
        edge = np.empty(got, tie.dtype)
        equal, sure, last = True, 0, -1
        for k in range(got):
            row = rows[found[k]]
            if here[found[k] - first] > lowest:
                sure += 1
            else:
                edge[k - sure] = tie[row]
                if last >= 0:
                    same = main[row] == main[rows[last]] and second[row] == second[rows[last]]
                    equal = equal and same and (not placed or positions[found[k]] == positions[last])
                last = found[k]
        if equal and sure < allowed < got:  # at the lowest level only `tie` decides: those too far back are left out
            limit, kept = np.partition(edge[: got - sure], allowed - sure - 1)[allowed - sure - 1], 0
            for k in range(got):
                if here[found[k] - first] > lowest or tie[rows[found[k]]] <= limit:
                    found[kept] = found[k]
                    kept += 1
            got = kept
        who = rows[found[:got]]
        turn = np.argsort(tie[who], kind="mergesort")
        turn = turn[np.argsort(-second[who[turn]], kind="mergesort")]
        turn = turn[np.argsort(-main[who[turn]], kind="mergesort")]
        if placed:
            turn = turn[np.argsort(positions[found[turn]], kind="mergesort")]
        got = min(got, allowed)
        for k in range(got):
            taken[done + k], bins[done + k] = who[turn[k]], b
            alive[who[turn[k]]] = False
        done += got
        left -= got
        debt = allowed - got
    return taken[:done].copy(), bins[:done].copy()
