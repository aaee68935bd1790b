"""The number of rows from each group: exact in sum, never more than the group holds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from curation.selectors.contract import BudgetError, SelectorError, one_of

ALLOCATIONS = ("proportional", "equal", "softmax", "explicit")


def quota_by_group(
    sizes: np.ndarray,
    budget: int,
    *,
    allocation: str = "proportional",
    stat: np.ndarray | None = None,
    tau: float = 1.0,
    shares: np.ndarray | None = None,
) -> np.ndarray:
    """int64[k]: rows of each of k groups with `sizes` int64[k], at most its size, in sum exactly `budget`.

    `allocation` gives the weights: "proportional" to size; "equal"; "softmax" of `stat` float64[k] / `tau`
    (same unit, `tau` > 0, inf = equal); "explicit": `shares` float64[k] >= 0, where a group with share 0 gets
    none. Rounding by largest remainders (Hamilton); what a full group cannot take is distributed among the
    others by the same weights. Raises SelectorError for invalid weights, BudgetError if the groups with a
    weight hold too few rows.
    """
    one_of("allocation", allocation, ALLOCATIONS)
    sizes = np.asarray(sizes, dtype=np.int64)
    base, lift = np.ones(len(sizes)), np.zeros(len(sizes))
    if allocation == "proportional":
        base = sizes.astype(np.float64)
    elif allocation == "softmax":
        lift = _lift(stat, tau, sizes)
    elif allocation == "explicit":
        base = _shares(shares, sizes)
    held = int(sizes[base > 0].sum())
    if budget > held:
        raise BudgetError(budget, held, "the groups with a share hold no more")
    return apportion(sizes, base, lift, budget)


def explicit_shares(names: Sequence[str], shares: Mapping[str, float]) -> np.ndarray:
    """float64[k]: the share of each group of `names`, 0 where `shares` does not name it.

    Raises SelectorError for a group that is not in `names`, a negative share, or no positive share.
    """
    for name in shares:
        if name not in names:
            raise SelectorError(
                f"shares name the group {name!r}, which no row has; groups are {', '.join(list(names)[:20])}"
            )
    return _shares(np.array([float(shares.get(name, 0.0)) for name in names]), np.zeros(len(names)))


def _lift(stat: np.ndarray | None, tau: float, sizes: np.ndarray) -> np.ndarray:
    if not tau > 0:
        raise SelectorError(f"tau must be positive (inf = equal), got {tau}")
    if stat is None or len(stat) != len(sizes) or not np.isfinite(np.asarray(stat)[sizes > 0]).all():
        raise SelectorError("allocation 'softmax' needs a finite number for each non-empty group")
    return np.where(sizes > 0, np.asarray(stat, dtype=np.float64), 0.0) / tau


def _shares(shares: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
    weights = np.asarray([] if shares is None else shares, dtype=np.float64)
    if len(weights) != len(sizes) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise SelectorError("allocation 'explicit' needs shares >= 0, one of them positive")
    return weights


def quota(sizes: np.ndarray, lift: np.ndarray, budget: int) -> np.ndarray:
    """int64[k]: rows per group, proportional to size · exp(lift), at most `sizes`, in sum exactly `budget`.

    Largest remainders; what a full group cannot take is distributed among the others; equal remainders favour
    the earlier group. `lift` zero is proportional to size. Raises ValueError if the groups hold fewer than
    `budget`.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if sizes.sum() < budget:
        raise ValueError(f"requested {budget} rows, the groups hold {sizes.sum()}")
    return apportion(sizes, sizes.astype(np.float64), np.asarray(lift, dtype=np.float64), budget)


def apportion(sizes: np.ndarray, base: np.ndarray, lift: np.ndarray, budget: int) -> np.ndarray:
    """int64[k] proportional to base · exp(lift), capped by `sizes`, in sum exactly `budget`.

    Groups with base 0 get none; the others must hold `budget` rows or more. All arguments have k entries.
    """
    sizes = np.where(base > 0, sizes, 0)
    full = sizes == 0
    exact = np.zeros(len(sizes))
    while not full.all():
        top = lift[~full].max()  # recomputed each time, or the weights of low groups would underflow for good
        # math.exp: numpy's differs in the last bit between SIMD variants, which could decide a remainder
        weights = np.array(
            [0.0 if f else n * math.exp(x - top) for n, x, f in zip(base, lift, full, strict=True)]
        )
        exact = weights * ((budget - int(sizes[full].sum())) / weights.sum())
        over = ~full & (exact >= sizes)
        if not over.any():
            break
        full |= over
    counts = np.where(full, sizes, np.floor(exact + 1e-9).astype(np.int64))
    remainder = np.where(full, -np.inf, np.round(exact - counts, 9))
    counts[np.argsort(-remainder, kind="stable")[: int(budget - counts.sum())]] += 1
    return counts


def at_least_one(sizes: np.ndarray, budget: int) -> np.ndarray:
    """int64[k], in sum exactly `budget`: each group's share by size rounded down, but at least one row.

    sizes: int64[k], all positive, in sum at least `budget`. What is left goes to the largest remainders (a
    group raised to one has none); what the ones exceed is taken from the largest numbers, of equal ones from
    the smallest group, so that with fewer rows than groups the largest get one each. Ties favour the earlier
    group.
    """
    total = int(sizes.sum())
    counts = np.maximum(sizes * budget // total, 1)
    remainders = np.where(sizes * budget >= total, sizes * budget % total, -1)
    left = budget - int(counts.sum())
    counts[np.argsort(-remainders, kind="stable")[: max(left, 0)]] += 1
    for _ in range(-left):
        most = np.flatnonzero(counts == counts.max()).tolist()
        counts[min(most, key=lambda group: (sizes[group], -group))] -= 1
    return counts


def spread(sizes: np.ndarray, budget: int, offset: int) -> np.ndarray:
    """int64[k]: proportional counts by systematic sampling: each is the exact share rounded down or up.

    Unlike largest remainders it does not always round the same small groups down: a group whose share is 0.2
    gets one row for a fifth of the values of `offset` (0 <= offset < sum of sizes). In sum exactly `budget`.
    """
    total = int(sizes.sum())
    ends = (np.cumsum(sizes) * budget + offset) // total
    return np.diff(ends, prepend=0)
