"""The inner loop of round-robin, compiled by numba (extra `fast`): the same picks as `round_robin.deal` in numpy."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from curation.selectors.contract import SelectorError


class Compiled(NamedTuple):
    """The functions below, compiled."""

    byte_sums: Callable[..., None]
    met: Callable[..., np.ndarray]
    lay_out: Callable[..., tuple[np.ndarray, ...]]
    levels: Callable[..., np.ndarray]
    deal: Callable[..., tuple[np.ndarray, np.ndarray]]


@cache
def compiled() -> Compiled:
    """Compiled on first use and kept beside this file. Raises SelectorError where numba is not installed."""
    try:
        import numba
    except ImportError as error:
        raise SelectorError(
            "engine 'numba' needs numba: pip install winnow[fast], or use engine 'numpy'"
        ) from error
    jit = numba.njit(cache=True)
    return Compiled(*(jit(function) for function in (byte_sums, met, lay_out, levels, deal)))


def byte_sums(bounds: np.ndarray, used: np.ndarray, terms: np.ndarray, total: np.ndarray) -> None:
    """Adds terms[position, byte] of every byte of name i, used[bounds[i]:bounds[i + 1]], to total[i]."""
    for i in range(len(total)):
        start = bounds[i]
        for position in range(bounds[i + 1] - start):
            total[i] += terms[position, used[start + position]]


def met(codes: np.ndarray, starts: np.ndarray, sources: np.ndarray, width: int, names: int) -> np.ndarray:
    """bool[names * width]: which pairs `Said.met` finds."""
    there = np.zeros(names * width, np.bool_)
    for row in range(len(starts) - 1):
        for e in range(starts[row], starts[row + 1]):
            if codes[e] >= 0:
                there[codes[e] * width + sources[row]] = True
    return there


def lay_out(
    codes: np.ndarray,
    starts: np.ndarray,
    sources: np.ndarray,
    of_pair: np.ndarray,
    width: int,
    count: int,
    bare: int,
    placed: bool,
) -> tuple[np.ndarray, ...]:
    """`Bins.of`: rows, starts, positions, and how many rows there are of which nothing is said."""
    n, unsaid, m = len(starts) - 1, 0, 0
    sizes, last = np.zeros(count + 1, np.int64), np.full(count, -1, np.int64)
    by_row, row_starts = np.empty(len(codes) + n * (bare >= 0), np.int32), np.zeros(n + 1, np.int64)
    for row in range(n):
        said = False
        for e in range(starts[row], starts[row + 1]):
            if codes[e] >= 0:
                said, b = True, of_pair[codes[e] * width + sources[row]]
                if last[b] != row:
                    by_row[m], last[b] = b, row
                    sizes[b + 1] += 1
                    m += 1
        if not said:
            unsaid += 1
            if bare >= 0:
                by_row[m] = of_pair[bare * width + sources[row]]
                sizes[by_row[m] + 1] += 1
                m += 1
        row_starts[row + 1] = m
    starts = np.cumsum(sizes)
    place, rows, positions = starts[:-1].copy(), np.empty(m, np.int32), np.empty(m * placed, np.int32)
    for row in range(n):
        for e in range(row_starts[row], row_starts[row + 1]):
            b = by_row[e]
            rows[place[b]] = row
            if placed:
                positions[place[b]] = e - row_starts[row]
            place[b] += 1
    return rows, starts, positions, unsaid


def levels(
    main: np.ndarray, second: np.ndarray, tie: np.ndarray, threshold: float, by_tie: bool
) -> np.ndarray:
    """uint8[n]: the level of each row, as `Ranking.of` says."""
    n, whole, level = len(main), threshold >= 0, np.empty(len(main), np.uint8)
    none, one, steps, most = main.dtype.type(0), main.dtype.type(1), main.dtype.type(16), main.dtype.type(15)
    half, low, share = main.dtype.type(0.5), main.dtype.type(threshold), 16 / max(n, 1)
    for i in range(n):  # without branches: which rows are candidates cannot be foretold
        value = main[i]
        within = (
            most - np.floor(main.dtype.type(tie[i] * share))
            if by_tie
            else np.floor((second[i] - value + half) * steps)
        )
        within = max(none, within)  # NaN is not
        within = min(most, within)
        whole &= not (value > low) or (value == np.floor(value) and value < most)
        level[i] = np.uint8(value * steps + within + one if value > low else none)
    if not whole:
        high = threshold
        for value in main:
            high = np.fmax(high, value)
        scale = 255 / (high - threshold) if high > threshold else 0.0
        for i in range(n):
            part = (main[i] - threshold) * scale
            level[i] = (np.uint8(min(part, 254)) + 1 if part > 0 else 1) if main[i] > threshold else 0
    return level


def deal(
    rows: np.ndarray,
    starts: np.ndarray,
    ahead: np.ndarray,
    positions: np.ndarray,
    narrowed: np.ndarray,
    clipped: bool,
    level: np.ndarray,
    main: np.ndarray,
    second: np.ndarray,
    tie: np.ndarray,
    alive: np.ndarray,
    share: int,
    carry: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """`round_robin.deal`: rows taken and their bins; `positions` is empty where entries have none."""
    placed, most = len(positions) > 0, 0
    here, sizes = np.empty(len(rows), np.uint8), np.zeros(len(starts) - 1, np.int64)
    for b in range(len(sizes)):
        candidates = 0
        for e in range(starts[b], starts[b + 1]):
            here[e] = level[rows[e]]
            candidates += here[e] > 0
        sizes[b], most = candidates, max(most, starts[b + 1] - starts[b])
    if placed:  # `Bins.lift`
        for e in range(len(rows)):
            lifted = np.uint8(narrowed[here[e]] + ahead[e])
            lifted = min(lifted, np.uint8(1)) if clipped and ahead[e] == 0 else lifted
            here[e] = lifted if here[e] > 0 else np.uint8(0)
    order = np.argsort(sizes, kind="mergesort")
    order = order[np.count_nonzero(sizes == 0) :]
    count, found = len(order), np.empty(most, np.int64)
    taken, bins = np.empty(len(alive), rows.dtype), np.empty(len(alive), np.int64)
    quota, debt, left, done = max(share // max(count, 1), 1), 0, share, 0
    for place in range(count):
        if left <= 0:
            break
        b = order[place]
        first, end = starts[b], starts[b + 1]
        allowed = quota + debt if carry else -(-left // (count - place))
        reached = np.zeros(256, np.int64)
        for e in range(first, end):
            reached[here[e]] += 1
        lowest, above, wanted = 256, 0, allowed
        while True:
            while above < wanted and lowest > 1:
                lowest -= 1
                above += reached[lowest]
            got = 0
            for e in range(first, end):
                if here[e] >= lowest and alive[rows[e]]:
                    found[got] = e
                    got += 1
            if got >= allowed or lowest == 1:
                break
            wanted = above + allowed - got  # some were taken in a bin before
        edge = np.empty(got, tie.dtype)
        equal, sure, last = True, 0, -1
        for k in range(got):
            row = rows[found[k]]
            if here[found[k]] > lowest:
                sure += 1
            else:
                edge[k - sure] = tie[row]
                if last >= 0:
                    same = main[row] == main[rows[last]] and second[row] == second[rows[last]]
                    equal = equal and same and (not placed or positions[found[k]] == positions[last])
                last = found[k]
        if (
            equal and sure < allowed < got
        ):  # at the lowest level only `tie` decides: those too far back are left out
            limit, kept = np.partition(edge[: got - sure], allowed - sure - 1)[allowed - sure - 1], 0
            for k in range(got):
                if here[found[k]] > lowest or tie[rows[found[k]]] <= limit:
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
