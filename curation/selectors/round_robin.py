"""Round-robin over capabilities, each share dealt out over bins, the best of each bin first.

Nothing is sorted but what a bin puts forward: in a bin, rows are first told apart by a byte, and only those that reach
the byte at which enough are found are put in their exact order. `engine="numba"` (extra `fast`) compiles the same steps
and gives the same picks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from curation.selectors.primitives.packed import sort_groups

ENGINES = ("numpy", "numba")
_LEVELS, _DEEPEST, _BLOCK = 255, 17, 1 << 15


@cache
def _narrowed(depth: int) -> np.ndarray:
    """uint8[256]: levels 1 to 255 as 1 to 255 // `depth`, in the same order; 0 stays 0."""
    return (-(-np.arange(_LEVELS + 1) * (_LEVELS // depth) // _LEVELS)).astype(np.uint8)


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
    def by_row(self) -> tuple[np.ndarray, np.ndarray]:
        """(codes int32[m], starts int64[n + 1]): row i stands in the bins codes[starts[i]:starts[i + 1]]."""
        n = int(self.rows.max(initial=-1)) + 1
        codes = np.arange(len(self.starts) - 1, dtype=np.int32).repeat(np.diff(self.starts))
        codes, starts = sort_groups(self.rows, n, codes, max(len(self.starts) - 1, 1))
        return codes.astype(np.int32), starts

    @cached_property
    def depth(self) -> int:
        """Positions that are told apart by level; entries of later ones share the last, and its lowest level."""
        return 1 if self.positions is None else min(int(self.positions.max(initial=0)) + 1, _DEEPEST)

    @cached_property
    def ahead(self) -> np.ndarray:
        """uint8[m]: the levels by which an entry is ahead of the last position."""
        if self.positions is None:
            return np.zeros(len(self.rows), np.uint8)
        last = self.depth - 1
        return (last - np.minimum(self.positions, last)).astype(np.uint8) * np.uint8(_LEVELS // self.depth)

    def lift(self, level: np.ndarray, span: slice) -> np.ndarray:
        """uint8: the `level` of the rows of some entries such that a lower position is always higher; 0 stays 0."""
        if self.depth == 1:
            return level
        ahead = self.ahead[span]
        lifted = (_narrowed(self.depth)[level] + ahead) * (level > 0)
        return np.where(ahead > 0, lifted, level > 0).astype(np.uint8) if self.depth == _DEEPEST else lifted

    def count(self, wanted: np.ndarray, engine: str = "numpy") -> np.ndarray:
        """int64[bins]: how many of the rows where `wanted` bool[n] stand in each bin."""
        if engine == "numba":
            from curation.selectors.kernels import compiled

            return compiled().count(self.rows, self.starts, wanted)
        there = wanted[self.rows]
        spans = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return np.array([np.count_nonzero(there[start:end]) for start, end in spans], np.int64)


@dataclass(frozen=True)
class Ranking:
    """The order of n rows for one capability: `main` descending, then `second` descending, then `tie` ascending.

    main, second: float[n]; tie: integers[n], a permutation of 0..n-1; level: uint8[n], 0 for a row that is no candidate,
    otherwise never lower for a row that comes before.
    """

    main: np.ndarray
    second: np.ndarray
    tie: np.ndarray
    level: np.ndarray

    @classmethod
    def of(cls, main: np.ndarray, second: np.ndarray, tie: np.ndarray, threshold: float) -> "Ranking":
        """The candidates are the rows with `main` strictly above `threshold`; NaN is not."""
        high = float(np.fmax.reduce(main, initial=threshold))
        whole = threshold >= 0 and high < 15 and all(_whole(main[s : s + _BLOCK]) for s in range(0, len(main), _BLOCK))
        level = np.empty(len(main), np.uint8)
        for start in range(0, len(main), _BLOCK):  # in blocks that stay in the processor's cache
            block = slice(start, start + _BLOCK)
            if not whole:
                part = _share(main[block] - main.dtype.type(threshold), high - threshold, _LEVELS)
            elif second is main:
                part = main[block] * 16 + (15 - tie[block].astype(np.int64) * 16 // len(tie))
            else:
                part = main[block] * 16 + _share(second[block] - main[block] + 0.5, 1.0, 16)
            part = np.fmax(part, 0).astype(np.uint8) + np.uint8(1)  # NaN becomes 0
            level[block] = part * (main[block] > threshold)
        return cls(main, second, tie, level)


def _whole(values: np.ndarray) -> bool:
    return bool(((values == np.trunc(values)) | np.isnan(values)).all())


def _share(values: np.ndarray, limit: float, levels: int) -> np.ndarray:
    """floor(values / limit · levels), at least 0 and below `levels`; all 0 where the limit is 0 or infinite."""
    with np.errstate(invalid="ignore"):
        scaled = values * values.dtype.type(levels / limit if limit > 0 else 0.0)
    return np.floor(np.fmin(np.fmax(scaled, 0), levels - 1))


def deal(
    bins: Bins, ranking: Ranking, alive: np.ndarray, sizes: np.ndarray, share: int, *, carry: bool, engine: str
) -> tuple[np.ndarray, np.ndarray]:
    """Take about `share` rows from the bins, smallest first; `sizes` int64[bins] are their candidates still alive.

    Returns rows and their bins. Without `carry` a bin gets ceil(still to deal / bins still to come) rows, or all it has
    left: `share` rows in all, if there are as many. With `carry` it gets the quota max(share // bins, 1) and what the
    bin before it fell short of; bins are visited as long as fewer than `share` are taken, so the last may bring more
    than `share`. Marks the rows in `alive` bool[n]. No rows come back when no candidate is left.
    """
    order = np.argsort(sizes, kind="stable")[np.count_nonzero(sizes == 0) :]
    if engine == "numba":
        from curation.selectors.kernels import compiled

        positions = np.zeros(0, np.int32) if bins.positions is None else bins.positions
        entries = (bins.rows, bins.starts, bins.ahead, positions, _narrowed(bins.depth), bins.depth == _DEEPEST)
        scores = (ranking.level * alive, ranking.main, ranking.second, ranking.tie)
        return compiled().deal(*entries, order, *scores, alive, share, carry)
    rows, codes, left, debt = [bins.rows[:0]], [order[:0]], share, 0
    quota, level = max(share // max(len(order), 1), 1), ranking.level * alive
    for place, at in enumerate(order.tolist()):
        if left <= 0:
            break
        allowed = quota + debt if carry else -(-left // (len(order) - place))
        some = _best(bins, ranking, level, alive, at, allowed)
        alive[some] = False
        rows.append(some)
        codes.append(np.full(len(some), at))
        left, debt = left - len(some), allowed - len(some)
    return np.concatenate(rows), np.concatenate(codes)


def _best(bins: Bins, ranking: Ranking, level: np.ndarray, alive: np.ndarray, at: int, allowed: int) -> np.ndarray:
    """The first `allowed` rows of bin `at` that are still alive, or all there are; `level` uint8[n] is 0 for rows taken."""
    span = slice(bins.starts[at], bins.starts[at + 1])
    rows = bins.rows[span]
    here = bins.lift(level[rows], span)
    reached = np.bincount(here, minlength=_LEVELS + 1)[:0:-1].cumsum()  # entries of level 255, of 254 and more, ...
    wanted = allowed
    while True:
        lowest = max(_LEVELS - int(reached.searchsorted(wanted)), 1)
        found = (here >= lowest).nonzero()[0]
        found = found[alive[rows[found]]]
        if len(found) >= allowed or lowest == 1:
            break
        wanted = int(reached[_LEVELS - lowest]) + allowed - len(found)  # some were taken in a bin before
    who = rows[found]
    keys = [ranking.tie[who], -ranking.second[who], -ranking.main[who]]
    if bins.positions is not None:
        keys.append(bins.positions[span][found])
    return who[np.lexsort(keys)[:allowed]]


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
    sizes: dict[int, np.ndarray] = {}
    live, exhausted, left, turn = list(serve), {}, budget, 0
    while left > 0 and live:
        share, turn = max(left // len(live), 1), turn + 1
        for q in list(live):
            if left <= 0:
                break
            if q not in sizes:
                sizes[q] = bins.count((ranking(q).level > 0) & alive, engine)
            rows, codes = deal(bins, ranking(q), alive, sizes[q], min(share, left), carry=carry, engine=engine)
            _subtract(bins, {other: ranking(other).level for other in sizes}, sizes, rows, engine)
            if not len(rows):
                live.remove(q)
                exhausted[q] = turn
            parts.append((rows, np.full(len(rows), q), codes, np.full(len(rows), turn)))
            left -= len(rows)
    return Picks(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)), exhausted)


def _subtract(bins: Bins, levels: dict[int, np.ndarray], sizes: dict[int, np.ndarray], rows: np.ndarray, engine: str) -> None:
    """Take the candidates among `rows` out of each capability's `sizes`."""
    codes, starts = bins.by_row
    if engine == "numba":
        from curation.selectors.kernels import compiled

        for q, level in levels.items():
            compiled().subtract(codes, starts, level, sizes[q], rows)
        return
    counts, starts = starts[rows + 1] - starts[rows], starts[rows]
    ends = counts.cumsum()
    stand = codes[np.arange(int(counts.sum())) + (starts - (ends - counts)).repeat(counts)]
    for q, level in levels.items():
        sizes[q] -= np.bincount(stand[(level[rows] > 0).repeat(counts)], minlength=len(sizes[q]))
