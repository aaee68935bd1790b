"""The engine of `mmssr` and `mmssr_official`: round-robin over capabilities, the best rows of each bin first.

A byte per row, its level, ranks rows coarsely; a bin sorts only those of its rows that reach a high enough
level.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np


@dataclass(frozen=True)
class Bins:
    """The rows of each non-empty bin, in one or more segments that are used up one after the other.

    Segment s holds the rows `rows[starts[s]:starts[s + 1]]`, ascending. Bin b consists of the segments from
    `first[b]` up to `first[b + 1]` and has the code `codes[b]`; codes ascend. All int64.
    """

    rows: np.ndarray
    starts: np.ndarray
    first: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, counts: np.ndarray, depth: int = 1) -> Self:
        """Row i is in the next `counts[i]` of `codes` uint[m], all different: bin · depth + its segment."""
        # numpy sorts 16-bit integers by radix, several times as fast as wider ones
        order = np.argsort(codes, kind="stable")
        ordered, rows = codes[order], np.arange(len(counts)).repeat(counts)[order]
        starts = np.append(0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)[: len(rows)]
        bins = ordered[starts].astype(np.int64) // depth
        first = np.flatnonzero(np.diff(bins, prepend=-1))
        return cls(rows, np.append(starts, len(rows)), np.append(first, len(starts)), bins[first])


@dataclass(frozen=True)
class Ranking:
    """Order of n rows for one capability: by each of `values` float[n] descending, `hashes` uint64[n], row.

    level: uint8[n], 0 for a row that is no candidate, else never lower for a better row. cuts: levels to try.
    """

    values: Sequence[np.ndarray]
    hashes: np.ndarray | None
    level: np.ndarray
    cuts: list[int]

    @classmethod
    def of(cls, values: Sequence[np.ndarray], threshold: float, hashes: np.ndarray | None = None) -> Self:
        """Candidates are the rows whose `values[0]` is strictly above `threshold`; NaN is not."""
        high = float(np.fmax.reduce(values[0], initial=threshold))
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = values[0] - threshold
            candidate = scaled > 0
            scaled *= 254 / (high - threshold) if high > threshold else 0.0
            scaled += 1
            # infinity times zero is NaN here, and has to be the top level
            level = np.fmin(scaled, 255, out=scaled).astype(np.uint8) * candidate
        sample = level[:: len(level) // 4096 + 1].tolist()
        return cls(values, hashes, level, sorted({1, *sample} - {0}))

    def best(self, rows: np.ndarray, level: np.ndarray, count: int) -> np.ndarray:
        """The first `count` candidates among `rows` int64[m], or all; `level` uint8[m] is 0 if taken."""
        reached = bisect_right(self.cuts, -count, key=lambda cut: -int(np.count_nonzero(level >= cut)))
        found = rows[(level >= self.cuts[max(reached - 1, 0)]).nonzero()[0]]
        keys = [-value[found] for value in reversed(self.values)]
        return found[np.lexsort(keys if self.hashes is None else [self.hashes[found], *keys])[:count]]


class Picks(NamedTuple):
    """int64[n] each, in pick order: position of the row, index of the capability, code of the bin, round."""

    rows: np.ndarray
    capability: np.ndarray
    bins: np.ndarray
    rounds: np.ndarray

    def values(self, scores: Callable[[int], np.ndarray]) -> np.ndarray:
        """float64[n]: the score of each pick; `scores` gives those of all rows in a capability."""
        picked = np.empty(len(self.rows))
        for capability in np.flatnonzero(np.bincount(self.capability)).tolist():
            mine = self.capability == capability
            picked[mine] = scores(capability)[self.rows[mine]]
        return picked


def round_robin(
    bins: Bins,
    ranking: Callable[[int], Ranking],
    serve: list[int],
    budget: int,
    alive: np.ndarray,
    carry: bool = False,
) -> tuple[Picks, dict[int, int]]:
    """Deal rows to capabilities in the order `serve`, in rounds, until `budget` are taken or none is left.

    In a round every live capability gets max(left // live capabilities, 1) rows, fixed at its start and cut
    to what is left; one without candidates is dropped. Clears picked rows in `alive` bool[n]. `carry` (see
    `_deal`) may exceed the budget. Returns the picks, and for each dropped capability its last round.
    """
    parts = [Picks(*np.empty((4, 0), np.int64))]
    live, exhausted, left, turn = list(serve), {}, budget, 0
    while left > 0 and live:
        share, turn = max(left // len(live), 1), turn + 1
        for capability in list(live):
            if left <= 0:
                break
            rows, codes = _deal(bins, ranking(capability), alive, min(share, left), carry)
            if not len(rows):
                live.remove(capability)
                exhausted[capability] = turn
            parts.append(Picks(rows, np.full(len(rows), capability), codes, np.full(len(rows), turn)))
            left -= len(rows)
    return Picks(*map(np.concatenate, zip(*parts, strict=True))), exhausted


def _deal(
    bins: Bins, ranking: Ranking, alive: np.ndarray, share: int, carry: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Take `share` rows for one capability, if it has as many. Returns them and the codes of their bins.

    Bins come by their number of candidates, then by code. Each gets ceil(still to deal / bins to come) rows,
    or all it has; with `carry` max(share // bins, 1) plus the shortfall of the bin before, which may exceed
    the share.
    """
    level = (ranking.level * alive)[bins.rows]
    sizes = np.add.reduceat((level > 0).view(np.uint8), bins.starts[bins.first[:-1]], dtype=np.int32)
    order = np.argsort(sizes, kind="stable")[np.count_nonzero(sizes == 0) :]
    starts, first = bins.starts.tolist(), bins.first.tolist()
    rows, codes = [bins.rows[:0]], [bins.codes[:0]]
    left, short, quota = share, 0, max(share // max(len(order), 1), 1)
    for place, at in enumerate(order.tolist()):
        if left <= 0:
            break
        wanted = short = quota + short if carry else -(-left // (len(order) - place))
        for segment in range(first[at], first[at + 1]):
            if short:
                span = slice(starts[segment], starts[segment + 1])
                here = bins.rows[span]  # an earlier bin may have taken some since `level` was computed
                rows.append(ranking.best(here, level[span] * alive[here], short))
                alive[rows[-1]] = False
                short -= len(rows[-1])
        codes.append(np.full(wanted - short, bins.codes[at]))
        left -= wanted - short
    return np.concatenate(rows), np.concatenate(codes)
