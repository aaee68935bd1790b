"""Round-robin over queues of ranked rows, each queue dealt out evenly over bins."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Bins:
    """Which bins each row stands in: row i in `codes[starts[i]:starts[i + 1]]`. Lower codes win ties of size."""

    starts: np.ndarray
    codes: np.ndarray

    def grouped(self, ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, bins): one entry for each row of `ranked` and each of its bins, by bin, inside it in ranked order."""
        counts = self.starts[ranked + 1] - self.starts[ranked]
        ends = np.cumsum(counts)
        within = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
        codes = self.codes[np.repeat(self.starts[ranked], counts) + within]
        by_bin = np.argsort(codes.astype(np.uint16) if codes.max(initial=0) < 1 << 16 else codes, kind="stable")
        return np.repeat(ranked, counts)[by_bin], codes[by_bin]


@dataclass
class Queue:
    """Candidates of one capability as `Bins.grouped` gives them; shrinks as rows are taken."""

    rows: np.ndarray
    bins: np.ndarray

    def deal(self, alive: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
        """Take up to `share` rows, evenly over the bins, smallest bin first; returns rows and the bins they came from.

        A bin gets ceil(still to deal / bins still to come) rows, or all it has left, its best first. Marks the rows in
        `alive`. No rows come back when no candidate is left.
        """
        live = alive[self.rows]
        if not live.all():
            self.rows, self.bins = self.rows[live], self.bins[live]
        starts = np.flatnonzero(np.diff(self.bins, prepend=-1))
        sizes = np.diff(starts, append=len(self.bins))
        order = np.argsort(sizes, kind="stable")
        rows, bins, left = [], [], share
        for place, at in enumerate(order):
            begin = starts[at]
            some = _first_alive(self.rows[begin : begin + sizes[at]], alive, -(-left // (len(order) - place)))
            alive[some] = False
            rows.append(some)
            bins.append(np.full(len(some), self.bins[begin]))
            left -= len(some)
            if not left:
                break
        return (np.concatenate(rows), np.concatenate(bins)) if rows else (self.rows, self.bins)


def _first_alive(rows: np.ndarray, alive: np.ndarray, count: int) -> np.ndarray:
    reach = 4 * count + 64
    while True:
        head = rows[:reach]
        found = head[alive[head]]
        if len(found) >= count or reach >= len(rows):
            return found[:count]
        reach *= 4


@dataclass
class Picks:
    """int64[n] each, in pick order: row, index of the queue, bin, round. `exhausted`: queue -> round it ran dry in."""

    rows: np.ndarray
    queue: np.ndarray
    bins: np.ndarray
    round: np.ndarray
    exhausted: dict[int, int] = field(default_factory=dict)


def round_robin(queues: list[Queue], serve: list[int], budget: int, alive: np.ndarray) -> Picks:
    """Deal rows to the queues in the order `serve`, round after round, until `budget` rows are taken or none is left.

    In a round every live queue gets max(left // live queues, 1) rows, fixed at its start and cut to what is left. An
    exhausted queue is dropped. Marks taken rows in `alive` bool[n].
    """
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64),) * 4]
    live, exhausted, left, turn = list(serve), {}, budget, 0
    while left and live:
        share, turn = max(left // len(live), 1), turn + 1
        for q in list(live):
            rows, bins = queues[q].deal(alive, min(share, left)) if left else ((), ())
            if left and not len(rows):
                live.remove(q)
                exhausted[q] = turn
            elif left:
                parts.append((rows, np.full(len(rows), q), bins, np.full(len(rows), turn)))
                left -= len(rows)
    return Picks(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)), exhausted)
