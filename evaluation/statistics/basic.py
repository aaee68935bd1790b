"""Statistics of a comparison: pure functions on arrays, seeded, tested against closed forms and scipy."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Units = Sequence[Sequence[NDArray[np.float64]]]
"""Scores of one arm: [unit][benchmark] -> float64[questions]. A unit is an independent repetition (a seed).
"""
BLOCK_BYTES = 1 << 25
"""Memory of the draws of questions that are held together: a matrix of all resamples takes 16 bytes for each
question of each."""


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % (or other) confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TTest:
    """Welch's unequal-variances t-test; all NaN if a side has fewer than two values or no side varies."""

    t: float
    df: float
    p: float


def mean(values: ArrayLike) -> float:
    """Arithmetic mean; ValueError for no values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("mean of no values")
    return float(array.mean())


def std(values: ArrayLike) -> float:
    """Sample standard deviation (n - 1 in the denominator); NaN, not 0, for fewer than two values."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1)) if array.size > 1 else math.nan


def stderr(values: ArrayLike) -> float:
    """Standard error of the mean, std / sqrt(n); NaN for fewer than two values."""
    return std(values) / math.sqrt(max(np.size(values), 1))


def stratified_stderr(values: ArrayLike, strata: Sequence[Any]) -> float | None:
    """Standard error of the mean of `values` when units are drawn within their strata: sqrt(sum n_h s_h^2)/n.

    None if no stratum has two units. A stratum of one unit adds nothing, as its variation is not known.
    """
    array = np.asarray(values, dtype=np.float64)
    groups = [array[rows] for rows in stratum_rows(strata) if len(rows) > 1]
    if not groups:
        return None
    return math.sqrt(sum(len(group) * group.var(ddof=1) for group in groups)) / array.size


def stratum_rows(strata: Sequence[Any]) -> list[NDArray[np.int64]]:
    """The positions of each stratum's units, strata in the order of their first appearance."""
    places: dict[Any, list[int]] = {}
    for at, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(at)
    return [np.array(rows, dtype=np.int64) for rows in places.values()]


def welch(a: ArrayLike, b: ArrayLike) -> TTest:
    """Two-sided test that `a` and `b` have the same mean, without assuming equal variances (Welch 1947)."""
    from scipy.stats import t as student

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(x.size, y.size) < 2:
        return TTest(math.nan, math.nan, math.nan)
    vx, vy = x.var(ddof=1) / x.size, y.var(ddof=1) / y.size
    if vx + vy == 0:
        return TTest(math.nan, math.nan, math.nan)
    t = (x.mean() - y.mean()) / math.sqrt(vx + vy)
    df = (vx + vy) ** 2 / (vx**2 / (x.size - 1) + vy**2 / (y.size - 1))
    return TTest(float(t), float(df), float(2 * student.sf(abs(t), df)))


def paired_bootstrap(
    a: Units,
    b: Units,
    *,
    pools: tuple[Sequence[int | None], Sequence[int | None]] | None = None,
    scale: Sequence[float] | None = None,
    strata: Sequence[Sequence[Any]] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of mean(a) - mean(b), means over benchmarks of (mean of units, questions) / `scale`.

    A question here is a benchmark's unit (`evaluation.units`); with `strata`, the category of each question
    of each benchmark, questions are drawn within their category.

    Hierarchical: every resample draws units within each arm (independently for the two) and questions within
    each benchmark. The drawn questions are the same for both arms and all units, since all answered the same
    questions. Of n units or questions, n - 1 are drawn with replacement: the variance of the resampled mean
    then equals the unbiased s^2 / n (McCarthy & Snowden 1985) even for three seeds, for which the usual n
    draws give two thirds of it. An arm with a single unit contributes no seed noise: the interval then covers
    the questions only.

    `pools` has the pool seed of each unit of `a` and of `b` (default: one pool); both arms must have the same
    pools. A mean is then over pools of the means over their units, units are drawn within their pool, and the
    pools, which both arms share, are the outermost level. This level adds the variance of the pools'
    differences that the seeds inside the pools do not explain: pool means also vary by the noise of their
    seeds, and drawing both pools and seeds in full would count it twice (Davison & Hinkley 1997, section
    3.8). Pools are few, and a resample of three never leaves their range (measured coverage 77 % at a nominal
    95 %), so their deviations are weighted by draws of Student's t with (pools - 1) degrees of freedom; three
    pools of five seeds then cover 90 to 96 %, whether pools, seeds or both cause the noise.
    Raises ValueError if the arms do not have the same questions or pools.
    """
    sides, of_sides = {"a": a, "b": b}, None if pools is None else {"a": pools[0], "b": pools[1]}
    drawn = PairedBootstrap.of(
        sides, pools=of_sides, scale=scale, strata=strata, resamples=resamples, seed=seed
    )
    return drawn.difference("a", "b", level)


@dataclass(frozen=True)
class PairedBootstrap:
    """The resampled questions of several arms, drawn once for all: `paired_bootstrap` of any two of them.

    arms, pools, scale: as for `paired_bootstrap`, by the arm's name. means: the mean of each unit over the
    questions of each resample, float64[units, resamples]. rng: the generator after the questions were drawn;
    every difference goes on from there.
    """

    arms: Mapping[str, Units]
    pools: Mapping[str, Sequence[int | None]]
    scale: Sequence[float] | None
    means: Mapping[str, NDArray[np.float64]]
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        arms: Mapping[str, Units],
        *,
        pools: Mapping[str, Sequence[int | None]] | None = None,
        scale: Sequence[float] | None = None,
        strata: Sequence[Sequence[Any]] | None = None,
        resamples: int = 2000,
        seed: int = 0,
        first: "PairedBootstrap | None" = None,
    ) -> "PairedBootstrap":
        """Draw the questions. `first`: the bootstrap of the first benchmark alone with the same other
        arguments, whose draws are then not made again.

        Raises ValueError if the arms do not have the same questions.
        """
        _check_same_questions(*arms.values())
        rng = np.random.default_rng(seed) if first is None else deepcopy(first.rng)
        units = [unit for arm in arms.values() for unit in arm]
        total = np.concatenate([first.means[name] for name in arms]) if first else 0.0
        for k in range(0 if first is None else 1, len(units[0])):
            of_questions = strata[k] if strata else [0] * len(units[0][k])
            drawn = _means_of_drawn(rng, [unit[k] for unit in units], of_questions, resamples)
            total = total + drawn / (1.0 if scale is None else scale[k])
        ends = np.cumsum([len(arm) for arm in arms.values()])[:-1]
        means = dict(zip(arms, np.split(total / len(units[0]), ends), strict=True))
        return cls(arms, pools or {name: [0] * len(arm) for name, arm in arms.items()}, scale, means, rng)

    def difference(self, a: str, b: str, level: float = 0.95) -> Interval:
        """The interval of mean(a) - mean(b). Raises ValueError if the two do not have the same pools."""
        shared = _check_same_pools(self.arms[a], self.arms[b], self.pools[a], self.pools[b])
        inside = [_by_pool(self.means[name], self.pools[name], shared) for name in (a, b)]
        drawn = _drawn_differences(deepcopy(self.rng), *inside)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        values = [grand_mean(self.arms[name], self.scale, self.pools[name]) for name in (a, b)]
        return Interval(values[0] - values[1], float(low), float(high))


def _drawn_differences(
    rng: np.random.Generator, inside_a: list[NDArray[np.float64]], inside_b: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """float64[resamples]: the resampled differences of two arms, given as float64[units, resamples] of each
    pool; draws units, and pools if there are several."""
    pairs = list(zip(inside_a, inside_b, strict=True))
    resamples = inside_a[0].shape[1]
    drawn = np.mean(
        [
            (_weights(rng, len(x), resamples).T * x).sum(0) - (_weights(rng, len(y), resamples).T * y).sum(0)
            for x, y in pairs
        ],
        axis=0,
    )
    if len(pairs) > 1:
        within = mean([_variance_of_mean(x.mean(1)) + _variance_of_mean(y.mean(1)) for x, y in pairs])
        drawn += _between_pools(rng, np.stack([x.mean(0) - y.mean(0) for x, y in pairs]), within)
    return drawn


def grand_mean(
    units: Units, scale: Sequence[float] | None = None, pools: Sequence[int | None] | None = None
) -> float:
    """Mean over benchmarks of the mean score over units and questions, each divided by its `scale`.

    With several `pools` (one entry per unit) every pool has the same weight, however many units it has.
    """
    weights = unit_weights(pools or [0] * len(units))
    per_benchmark = [
        np.average([unit[k].mean() for unit in units], weights=weights) for k in range(len(units[0]))
    ]
    return float(np.mean(np.asarray(per_benchmark) / (1.0 if scale is None else np.asarray(scale))))


def unit_weights(pools: Sequence[int | None]) -> NDArray[np.float64]:
    """float64[units] with sum 1: every pool has the same weight, and within a pool every unit."""
    counts = {pool: list(pools).count(pool) for pool in pools}
    return np.array([1 / (len(counts) * counts[pool]) for pool in pools])


def _by_pool(
    means: NDArray[np.float64], pools: Sequence[int | None], shared: Sequence[int | None]
) -> list[NDArray[np.float64]]:
    """Rows of float64[units, resamples] of each pool."""
    return [means[[at for at, own in enumerate(pools) if own == pool]] for pool in shared]


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    """s^2 / n; 0 for a single value, whose noise is then part of the variance between pools."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _between_pools(
    rng: np.random.Generator, differences: NDArray[np.float64], within: float
) -> NDArray[np.float64]:
    """float64[resamples]: what the pool level adds to each resampled difference.

    `differences`: float64[pools, resamples]; `within`: the part of their variance that is explained by seeds.
    """
    n, resamples = differences.shape
    between = float(differences.mean(1).var(ddof=1))
    unexplained = max(0.0, 1 - within / between) if between > 0 else 0.0
    student = rng.normal(size=(n, resamples)) * np.sqrt((n - 1) / rng.chisquare(n - 1, size=resamples))
    deviations = differences - differences.mean(0)
    return math.sqrt(unexplained / (n * (n - 1))) * (student * deviations).sum(0)


def _draws(n: int) -> int:
    """How many of n items a resample draws."""
    return max(n - 1, 1)


def _weights(rng: np.random.Generator, n: int, resamples: int) -> NDArray[np.float64]:
    """float64[resamples, n]: share of each of n items in a resample."""
    return rng.multinomial(_draws(n), np.full(n, 1 / n), size=resamples) / _draws(n)


def _means_of_drawn(
    rng: np.random.Generator, scores: Sequence[NDArray[np.float64]], strata: Sequence[Any], resamples: int
) -> NDArray[np.float64]:
    """float64[len(scores), resamples]: means of drawn questions, the same for all `scores` (float64[n] each).

    They are drawn within their strata, which keep their shares, in blocks of at most BLOCK_BYTES: the blocks
    do not change what is drawn.
    """
    out = np.zeros((len(scores), resamples))
    for rows in stratum_rows(strata):
        n = len(rows)
        own = np.stack([values[rows] for values in scores])
        chances, share = np.full(n, 1 / n), n / len(strata) / _draws(n)
        at_once = max(BLOCK_BYTES // (16 * n), 1)  # counts are drawn as int64, and multiplied as float64
        for begin in range(0, resamples, at_once):
            size = min(at_once, resamples - begin)
            counts = rng.multinomial(_draws(n), chances, size=size).astype(np.float64)
            out[:, begin : begin + size] += share * (own @ counts.T)
    return out


def _check_same_questions(*arms: Units) -> None:
    if not all(arms):
        raise ValueError("an arm without runs cannot be compared")
    shapes = {tuple(len(scores) for scores in unit) for arm in arms for unit in arm}
    if len(shapes) > 1:
        raise ValueError(
            f"runs answered different numbers of questions, {sorted(shapes)}: they cannot be paired"
        )
    if not all(next(iter(shapes))) or not next(iter(shapes)):
        raise ValueError("no benchmarks, or a benchmark without questions")


def _check_same_pools(
    a: Units, b: Units, pools_a: Sequence[int | None], pools_b: Sequence[int | None]
) -> list[int | None]:
    """The pools in order of first appearance."""
    if (len(a), len(b)) != (len(pools_a), len(pools_b)):
        raise ValueError(f"{len(a)} and {len(b)} units, but pools of {len(pools_a)} and {len(pools_b)} units")
    if set(pools_a) != set(pools_b):
        raise ValueError(
            f"the arms were run on different pools: {list(dict.fromkeys(pools_a))} and "
            f"{list(dict.fromkeys(pools_b))}"
        )
    return list(dict.fromkeys(pools_a))
