"""Round-robin over capabilities, each share dealt out over bins, the best of each bin first.

Nothing is sorted but what a bin puts forward: in a bin, rows are first told apart by a byte, and only those that reach
the byte at which enough are found are put in their exact order. `engine="numba"` (extra `fast`) compiles the same steps
and gives the same picks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from curation.selectors.bins import BLOCK, DEEPEST, LEVELS, Bins, narrowed
from curation.selectors.kernels import compiled

ENGINES = ("numpy", "numba")


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
    def of(
        cls, main: np.ndarray, second: np.ndarray, tie: np.ndarray, threshold: float, engine: str = "numpy"
    ) -> "Ranking":
        """The candidates are the rows with `main` strictly above `threshold`; NaN is not.

        Whole scores below 15 have 16 levels each, by `second`, or by `tie` where `second` is `main`; others have 255 in all.
        """
        if engine == "numba":
            return cls(main, second, tie, compiled().levels(main, second, tie, threshold, second is main))
        high = float(np.fmax.reduce(main, initial=threshold))
        whole = (
            threshold >= 0
            and high < 15
            and all(_whole(main[s : s + BLOCK]) for s in range(0, len(main), BLOCK))
        )
        level = np.empty(len(main), np.uint8)
        for start in range(0, len(main), BLOCK):
            block = slice(start, start + BLOCK)
            if not whole:
                part = _share(main[block] - main.dtype.type(threshold), high - threshold, LEVELS)
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
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values * values.dtype.type(levels / limit if limit > 0 else 0.0)
    return np.floor(np.fmin(np.fmax(scaled, 0), levels - 1))


def deal(
    bins: Bins, ranking: Ranking, alive: np.ndarray, share: int, *, carry: bool, engine: str
) -> tuple[np.ndarray, np.ndarray]:
    """Take about `share` rows from the bins, that with the fewest candidates still alive first.

    Returns rows and their bins. Without `carry` a bin gets ceil(still to deal / bins still to come) rows, or all it has
    left: `share` rows in all, if there are as many. With `carry` it gets the quota max(share // bins, 1) and what the
    bin before it fell short of; bins are visited as long as fewer than `share` are taken, so the last may bring more
    than `share`. Marks the rows in `alive` bool[n]. No rows come back when no candidate is left.
    """
    level = ranking.level * alive
    if engine == "numba":
        positions = np.zeros(0, np.int32) if bins.positions is None else bins.positions
        entries = (bins.rows, bins.starts, bins.ahead, positions, narrowed(bins.depth), bins.depth == DEEPEST)
        return compiled().deal(
            *entries, level, ranking.main, ranking.second, ranking.tie, alive, share, carry
        )
    here = bins.lift(level)
    sizes = bins.count(here > 0)
    order = np.argsort(sizes, kind="stable")[np.count_nonzero(sizes == 0) :]
    rows, codes, left, debt, quota = (
        [bins.rows[:0]],
        [order[:0]],
        share,
        0,
        max(share // max(len(order), 1), 1),
    )
    for place, at in enumerate(order.tolist()):
        if left <= 0:
            break
        allowed = quota + debt if carry else -(-left // (len(order) - place))
        some = _best(bins, ranking, here, alive, at, allowed)
        alive[some] = False
        rows.append(some)
        codes.append(np.full(len(some), at))
        left, debt = left - len(some), allowed - len(some)
    return np.concatenate(rows), np.concatenate(codes)


def _best(
    bins: Bins, ranking: Ranking, here: np.ndarray, alive: np.ndarray, at: int, allowed: int
) -> np.ndarray:
    """The first `allowed` rows of bin `at` that are still alive, or all there are; `here` uint8[m] are the entries' levels."""
    span = slice(bins.starts[at], bins.starts[at + 1])
    rows, here = bins.rows[span], here[span]
    reached = np.bincount(here, minlength=LEVELS + 1)[
        :0:-1
    ].cumsum()  # entries of level 255, of 254 and more, ...
    wanted = allowed
    while True:
        lowest = max(LEVELS - int(reached.searchsorted(wanted)), 1)
        found = (here >= lowest).nonzero()[0]
        found = found[alive[rows[found]]]
        if len(found) >= allowed or lowest == 1:
            break
        wanted = int(reached[LEVELS - lowest]) + allowed - len(found)  # some were taken in a bin before
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
    live, exhausted, left, turn = list(serve), {}, budget, 0
    while left > 0 and live:
        share, turn = max(left // len(live), 1), turn + 1
        for q in list(live):
            if left <= 0:
                break
            rows, codes = deal(bins, ranking(q), alive, min(share, left), carry=carry, engine=engine)
            if not len(rows):
                live.remove(q)
                exhausted[q] = turn
            parts.append((rows, np.full(len(rows), q), codes, np.full(len(rows), turn)))
            left -= len(rows)
    return Picks(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)), exhausted)
