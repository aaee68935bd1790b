"""Which samples a page holds: a seeded, stratified sample of what is picked and of what is dropped."""

import numpy as np


def draw(picked: np.ndarray, strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int64[min(count, n)]: row numbers, ascending.

    picked: bool[n]. strata: int[n] from 0, as the sources. Half of the rows are picked ones and half dropped
    ones; where one kind has too few, the other fills up. Within each, a stratum has its share, and at least
    one row as long as there are enough.
    """
    n = len(picked)
    if count >= n:
        return np.arange(n, dtype=np.int64)
    n_picked = int(np.count_nonzero(picked))
    of_picked = min(n_picked, max(count // 2, count - (n - n_picked)))
    rng = np.random.default_rng(seed)
    parts = [
        _from_strata(np.flatnonzero(picked == kind), strata, size, rng)
        for kind, size in ((True, of_picked), (False, count - of_picked))
    ]
    return np.sort(np.concatenate(parts))


def _from_strata(rows: np.ndarray, strata: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `rows`, each stratum with its share."""
    own = strata[rows]
    order = np.argsort(own, kind="stable")
    sizes = np.bincount(own)
    ends = np.cumsum(sizes)
    drawn = [
        rows[order[end - size + rng.choice(size, share, replace=False, shuffle=False)]]
        for size, end, share in zip(sizes, ends, shares(sizes, count), strict=True)
        if share
    ]
    return np.concatenate(drawn) if drawn else np.empty(0, np.int64)


def shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """int64[k] that sum to `count` <= sum of sizes: in proportion to `sizes`, at least 1 where one is left.

    Largest remainders; of equal ones the first.
    """
    wanted = np.zeros(len(sizes), np.int64)
    if count < np.count_nonzero(sizes):
        wanted[np.argsort(-sizes, kind="stable")[:count]] = 1
        return wanted
    while len(free := np.flatnonzero((sizes > 0) & (wanted == 0))):
        exact = (count - wanted.sum()) * sizes[free] / sizes[free].sum()
        if (exact >= 1).all():
            whole = np.floor(exact).astype(np.int64)
            lacking = int(count - wanted.sum() - whole.sum())
            whole[np.argsort(whole - exact, kind="stable")[:lacking]] += 1
            wanted[free] = whole
        else:  # the rest is shared by the others
            wanted[free[exact < 1]] = 1
    return wanted
