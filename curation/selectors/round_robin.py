"""Round-robin over capabilities, each share dealt out over bins, the best of each bin first.

Nothing is sorted but what a bin puts forward: in a bin, rows are first told apart by a byte, and only those that reach
the byte at which enough are found are put in their exact order. `engine="numba"` (extra `fast`) compiles the same steps
and gives the same picks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from curation.selectors.primitives.packed import sort_groups

ENGINES = ("numpy", "numba")
_LEVELS = 255
_FIFTEEN = ((np.arange(256) + 16) // 17).astype(np.uint8)
"""Levels 1 to 255 as 1 to 15, where the upper four bits are for the position; 0 stays 0."""
_BLOCK = 1 << 15


@dataclass(frozen=True)
class Bins:
    """Which rows stand in which bins: those of bin b are `rows[starts[b]:starts[b + 1]]`, each once.

    rows int32[m], starts int64[bins + 1]; positions int32[m] or none: entries of a lower position come first in a bin,
    whatever their scores. Lower bins win ties of size.
    """

    rows: np.ndarray
    starts: np.ndarray
    positions: np.ndarray | None = None

    @classmethod
    def of(cls, rows: np.ndarray, codes: np.ndarray, count: int, n_rows: int) -> "Bins":
        """From pairs of row and bin in any order, repeated or not: int[m] each, 0 <= codes < count, 0 <= rows < n_rows."""
        ordered, starts = sort_groups(codes, count, rows, n_rows)
        again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1  # equal neighbours of different bins are no repeats
        again = again[~np.isin(again, starts)]
        if len(again):
            ordered = np.delete(ordered, again)
            starts = starts - np.searchsorted(again, starts)
        return cls(ordered.astype(np.int32), starts)

    @cached_property
    def ahead(self) -> np.ndarray | None:
        """uint8[m]: 16 levels for each position that an entry is ahead of position 15."""
        return None if self.positions is None else (15 - np.minimum(self.positions, 15)).astype(np.uint8) * np.uint8(16)

    @cached_property
    def deep(self) -> bool:
        """Whether any position is 15 or more."""
        return self.positions is not None and bool(self.positions.max(initial=0) >= 15)


@dataclass(frozen=True)
class Ranking:
    """The order of n rows for one capability: `main` descending, then `second` descending, then `tie` ascending.

    main, second: float[n]; tie: integers[n], all different; level: uint8[n], 0 for a row that is no candidate, otherwise
    never lower for a higher `main`.
    """

    main: np.ndarray
    second: np.ndarray
    tie: np.ndarray
    level: np.ndarray

    @classmethod
    def of(cls, main: np.ndarray, second: np.ndarray, tie: np.ndarray, threshold: float) -> "Ranking":
        """The candidates are the rows with `main` strictly above `threshold`; NaN is not."""
        high = np.max(main, where=np.isfinite(main), initial=threshold)
        step = (_LEVELS - 1) / (high - threshold) if high > threshold else 0.0
        level = np.empty(len(main), np.uint8)
        for start in range(0, len(main), _BLOCK):  # in blocks that stay in the processor's cache
            block = main[start : start + _BLOCK]
            scaled = np.nan_to_num(block, nan=threshold, posinf=high, neginf=threshold)
            scaled = np.clip((scaled - threshold) * step, 0, _LEVELS - 1)
            level[start : start + _BLOCK] = np.where(block > threshold, scaled.astype(np.uint8) + np.uint8(1), np.uint8(0))
        return cls(main, second, tie, level)


def deal(
    bins: Bins, ranking: Ranking, alive: np.ndarray, levels: np.ndarray, share: int, *, carry: bool, engine: str
) -> tuple[np.ndarray, np.ndarray]:
    """Take about `share` rows from the bins, smallest first by candidates still alive; returns rows and their bins.

    Without `carry` a bin gets ceil(still to deal / bins still to come) rows, or all it has left: `share` rows in all, if
    there are as many. With `carry` it gets the quota max(share // bins, 1) and what the bin before it fell short of;
    bins are visited as long as fewer than `share` are taken, so the last may bring more than `share`. Marks the rows in
    `alive` bool[n]. No rows come back when no candidate is left. `levels` uint8[m] is written over.
    """
    _write_levels(bins, ranking.level * alive, levels)
    if engine == "numba":
        from curation.selectors.kernels import compiled

        positions = np.zeros(0, np.int32) if bins.positions is None else bins.positions
        args = (bins.rows, bins.starts, positions, levels, ranking.main, ranking.second, ranking.tie)
        return compiled().deal(*args, alive, share, carry)
    spans = list(zip(bins.starts[:-1].tolist(), bins.starts[1:].tolist(), strict=True))
    sizes = np.array([np.count_nonzero(levels[start:end]) for start, end in spans], np.int64)
    order = np.argsort(sizes, kind="stable")[np.count_nonzero(sizes == 0) :].tolist()
    rows, codes, left, debt = [bins.rows[:0]], [np.empty(0, np.int64)], share, 0
    quota = max(share // max(len(order), 1), 1)
    for place, at in enumerate(order):
        if left <= 0:
            break
        allowed = quota + debt if carry else -(-left // (len(order) - place))
        some = _best(bins, ranking, levels, alive, spans[at], allowed)
        alive[some] = False
        rows.append(some)
        codes.append(np.full(len(some), at))
        left, debt = left - len(some), allowed - len(some)
    return np.concatenate(rows), np.concatenate(codes)


def _write_levels(bins: Bins, level: np.ndarray, out: np.ndarray) -> None:
    """The level of each entry, 0 for those out of play, into uint8[m]; a lower position is a higher level."""
    if bins.ahead is None:
        np.take(level, bins.rows, out=out, mode="clip")
        return
    level = _FIFTEEN[level]
    for start in range(0, len(out), _BLOCK):
        part, ahead = out[start : start + _BLOCK], bins.ahead[start : start + _BLOCK]
        np.take(level, bins.rows[start : start + _BLOCK], out=part, mode="clip")
        part += ahead * (part > 0)
        if bins.deep:  # positions from 15 on share the lowest level
            part[(ahead == 0) & (part > 0)] = 1


def _best(
    bins: Bins, ranking: Ranking, levels: np.ndarray, alive: np.ndarray, span: tuple[int, int], allowed: int
) -> np.ndarray:
    """The first `allowed` rows of a bin that are still alive, or all there are."""
    here = levels[span[0] : span[1]]
    reached = np.bincount(here, minlength=_LEVELS + 1)[:0:-1].cumsum()  # entries of level 255, of 254 and more, ...
    wanted = allowed
    while True:
        level = max(_LEVELS - int(reached.searchsorted(wanted)), 1)
        at = (here >= level).nonzero()[0] + span[0]
        rows = bins.rows[at]
        free = alive[rows]
        rows = rows[free]
        if len(rows) >= allowed or level == 1:
            break
        wanted = int(reached[_LEVELS - level]) + allowed - len(rows)  # some were taken in an earlier bin
    keys = [ranking.tie[rows], -ranking.second[rows], -ranking.main[rows]]
    if bins.positions is not None:
        keys.append(bins.positions[at[free]])
    return rows[np.lexsort(keys)[:allowed]]


@dataclass
class Picks:
    """int64[n] each, in pick order: row, index of the capability, bin, round. `exhausted`: capability -> its last round."""

    rows: np.ndarray
    queue: np.ndarray
    bins: np.ndarray
    round: np.ndarray
    exhausted: dict[int, int] = field(default_factory=dict)


def round_robin(
    bins: Bins,
    ranking: Callable[[int], Ranking],
    serve: list[int],
    budget: int,
    alive: np.ndarray,
    *,
    carry: bool = False,
    engine: str = "numpy",
) -> Picks:
    """Deal rows to the capabilities in the order `serve`, round after round, until `budget` are taken or none is left.

    In a round every live capability gets max(left // live capabilities, 1) rows, fixed at its start and cut to what is
    left. One without candidates is dropped. Marks taken rows in `alive` bool[n]. With `carry` (see `deal`) more than
    `budget` rows may come back.
    """
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64),) * 4]
    levels = np.empty(len(bins.rows), np.uint8)
    live, exhausted, left, turn = list(serve), {}, budget, 0
    while left > 0 and live:
        share, turn = max(left // len(live), 1), turn + 1
        for q in list(live):
            if left <= 0:
                break
            rows, codes = deal(bins, ranking(q), alive, levels, min(share, left), carry=carry, engine=engine)
            if not len(rows):
                live.remove(q)
                exhausted[q] = turn
            parts.append((rows, np.full(len(rows), q), codes, np.full(len(rows), turn)))
            left -= len(rows)
    return Picks(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)), exhausted)
