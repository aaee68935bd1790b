"""Round-robin over queues of ranked rows, each queue dealt out over bins.

`engine="numpy"` needs nothing more; `engine="numba"` (extra `fast`) compiles the same steps and gives the same picks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from curation.selectors.primitives.packed import sort_groups

ENGINES = ("numpy", "numba")
_ABSENT = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class Bins:
    """Which bins each row stands in: entry e says that row `rows[e]` stands in bin `codes[e]`; by row, ascending.

    int32[entries] each; codes are 0..count-1, lower codes win ties of size. A row stands in a bin once at most.
    """

    rows: np.ndarray
    codes: np.ndarray
    count: int

    def group(self, ranked: np.ndarray, n_rows: int, engine: str = "numpy") -> "Queue":
        """The rows of `ranked` (int32, best first) by bin, in each bin in ranked order."""
        place = np.full(n_rows, _ABSENT)
        place[ranked] = np.arange(len(ranked), dtype=np.uint32)
        if engine == "numba":
            from curation.selectors.kernels import compiled

            return Queue(*compiled().group(self.rows, self.codes, self.count, place, ranked), engine)
        places = place[self.rows]
        there = places != _ABSENT
        order, starts = sort_groups(self.codes[there], self.count, places[there], len(ranked))
        return Queue(ranked[order], starts)


@dataclass
class Queue:
    """Candidates of one capability: bin b holds `rows[starts[b]:starts[b + 1]]`, best first; shrinks as rows go."""

    rows: np.ndarray
    starts: np.ndarray
    engine: str = "numpy"

    def deal(self, alive: np.ndarray, share: int, carry: bool) -> tuple[np.ndarray, np.ndarray]:
        """Take about `share` rows from the bins, smallest live bin first; returns rows and the bins they came from.

        Without `carry` a bin gets ceil(still to deal / bins still to come) rows, or all it has left: `share` rows in
        all, if there are as many. With `carry` it gets the quota max(share // bins, 1) and what the bin before it fell
        short of; bins are visited as long as fewer than `share` are taken, so the last may bring more than `share`.
        Marks the rows in `alive`. No rows come back when no candidate is left.
        """
        if self.engine == "numba":
            from curation.selectors.kernels import compiled

            self.rows, self.starts, *taken = compiled().deal(self.rows, self.starts, alive, share, carry)
            return taken[0], taken[1]
        self._drop_taken(alive)
        sizes = np.diff(self.starts)
        order = np.argsort(sizes, kind="stable")
        order = order[np.count_nonzero(sizes == 0) :]
        rows, bins, left, debt = [self.rows[:0]], [order[:0]], share, 0
        quota = max(share // max(len(order), 1), 1)
        for place, at in enumerate(order):
            if left <= 0:
                break
            allowed = quota + debt if carry else -(-left // (len(order) - place))
            some = _first_alive(self.rows[self.starts[at] : self.starts[at + 1]], alive, allowed)
            alive[some] = False
            rows.append(some)
            bins.append(np.full(len(some), at))
            left, debt = left - len(some), allowed - len(some)
        return np.concatenate(rows), np.concatenate(bins)

    def _drop_taken(self, alive: np.ndarray) -> None:
        live = alive[self.rows]
        if not live.all():
            self.starts = np.concatenate([[0], np.cumsum(live)])[self.starts]
            self.rows = self.rows[live]


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


def round_robin(
    build: Callable[[int], Queue], serve: list[int], budget: int, alive: np.ndarray, *, carry: bool = False
) -> Picks:
    """Deal rows to the queues in the order `serve`, round after round, until `budget` rows are taken or none is left.

    In a round every live queue gets max(left // live queues, 1) rows, fixed at its start and cut to what is left. An
    exhausted queue is dropped. Queue q is `build(q)`, called when it is first served. Marks taken rows in `alive`
    bool[n]. With `carry` (see `Queue.deal`) more than `budget` rows may come back.
    """
    queues: dict[int, Queue] = {}
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64),) * 4]
    live, exhausted, left, turn = list(serve), {}, budget, 0
    while left > 0 and live:
        share, turn = max(left // len(live), 1), turn + 1
        for q in list(live):
            if left <= 0:
                break
            queues[q] = queues.get(q) or build(q)
            rows, bins = queues[q].deal(alive, min(share, left), carry)
            if not len(rows):
                live.remove(q)
                exhausted[q] = turn
            parts.append((rows, np.full(len(rows), q), bins, np.full(len(rows), turn)))
            left -= len(rows)
    return Picks(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)), exhausted)
