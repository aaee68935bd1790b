"""Statistics of a comparison: pure functions on arrays, seeded, tested against closed forms and scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Units = Sequence[Sequence[NDArray[np.float64]]]
"""Scores of one arm: [unit][benchmark] -> float64[questions]. A unit is an independent repetition (a seed)."""


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % (or other) confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TTest:
    """Welch's unequal-variances t-test; all NaN where either side has fewer than two values or neither varies."""

    t: float
    df: float
    p: float


def mean(values: ArrayLike) -> float:
    """Arithmetic mean; ValueError when there is nothing to average."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("mean of no values")
    return float(array.mean())


def std(values: ArrayLike) -> float:
    """Sample standard deviation (n - 1 in the denominator); NaN for fewer than two values: unknown, not zero."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1)) if array.size > 1 else math.nan


def stderr(values: ArrayLike) -> float:
    """Standard error of the mean, std / sqrt(n); NaN for fewer than two values."""
    return std(values) / math.sqrt(max(np.size(values), 1))


def welch(a: ArrayLike, b: ArrayLike) -> TTest:
    """Two-sided test that `a` and `b` have the same mean without assuming the same variance (Welch 1947)."""
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
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of mean(a) - mean(b), where a mean runs over benchmarks of (question mean over units / `scale`).

    Hierarchical: every resample draws units within each arm (independently for the two) and questions within each
    benchmark; the questions drawn are the same for both arms and all units, since all answered the same questions.
    From n units or questions n - 1 are drawn with replacement, which makes the variance of the resampled mean equal to
    the unbiased s^2 / n (McCarthy & Snowden 1985) also for three seeds, where the usual n draws give two thirds of it.
    An arm with a single unit contributes no seed noise: the interval is then of the questions alone.

    `pools` gives the pool seed of each unit of `a` and of `b` (default: all of one pool); both arms must have the same
    pools. A mean is then the mean over pools of the means over their units, units are drawn within their pool, and the
    pools, which both arms share, are the outermost level. What that level adds is the variance of the pools'
    differences that the seeds inside the pools do not explain: pool means vary by their seeds' noise too, and drawing
    pools and seeds both in full would count it twice (Davison & Hinkley 1997, section 3.8). Pools are few, and
    resampling three of them never leaves their range (it covered 77 % where 95 % were promised), so their deviations
    are weighted by draws of Student's t with one degree of freedom less than there are pools (three pools of five seeds
    then cover 90 to 96 %, whether pools, seeds or both make the noise).
    Raises ValueError when the arms do not have the same questions or pools.
    """
    _check_same_questions(a, b)
    pools_a, pools_b = pools or ([0] * len(a), [0] * len(b))
    shared = _check_same_pools(a, b, pools_a, pools_b)
    rng = np.random.default_rng(seed)
    n_benchmarks = len(a[0])
    means_a, means_b = np.zeros((len(a), resamples)), np.zeros((len(b), resamples))
    for k in range(n_benchmarks):
        weights = _weights(rng, len(a[0][k]), resamples) / (
            n_benchmarks * (1.0 if scale is None else scale[k])
        )
        means_a += np.stack([unit[k] for unit in a]) @ weights.T
        means_b += np.stack([unit[k] for unit in b]) @ weights.T
    inside_a, inside_b = _by_pool(means_a, pools_a, shared), _by_pool(means_b, pools_b, shared)
    drawn = np.mean(
        [
            (_weights(rng, len(x), resamples).T * x).sum(0) - (_weights(rng, len(y), resamples).T * y).sum(0)
            for x, y in zip(inside_a, inside_b)
        ],
        axis=0,
    )
    if len(shared) > 1:
        within = mean(
            [_variance_of_mean(x.mean(1)) + _variance_of_mean(y.mean(1)) for x, y in zip(inside_a, inside_b)]
        )
        drawn += _between_pools(
            rng, np.stack([x.mean(0) - y.mean(0) for x, y in zip(inside_a, inside_b)]), within
        )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    value = grand_mean(a, scale, pools_a) - grand_mean(b, scale, pools_b)
    return Interval(value, float(low), float(high))


def grand_mean(
    units: Units, scale: Sequence[float] | None = None, pools: Sequence[int | None] | None = None
) -> float:
    """Mean over benchmarks of the mean score over units and questions, each divided by its `scale`.

    With several `pools` (one entry for each unit) every pool counts the same, however many units it has.
    """
    weights = unit_weights(pools or [0] * len(units))
    per_benchmark = [
        np.average([unit[k].mean() for unit in units], weights=weights) for k in range(len(units[0]))
    ]
    return float(np.mean(np.asarray(per_benchmark) / (1.0 if scale is None else np.asarray(scale))))


def unit_weights(pools: Sequence[int | None]) -> NDArray[np.float64]:
    """float64[units], sum 1: every pool has the same share, and inside a pool every unit."""
    counts = {pool: list(pools).count(pool) for pool in pools}
    return np.array([1 / (len(counts) * counts[pool]) for pool in pools])


def _by_pool(
    means: NDArray[np.float64], pools: Sequence[int | None], shared: Sequence[int | None]
) -> list[NDArray[np.float64]]:
    """Rows of float64[units, resamples] of each pool."""
    return [means[[at for at, own in enumerate(pools) if own == pool]] for pool in shared]


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    """s^2 / n; 0 for a single value, whose noise then shows between the pools."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _between_pools(
    rng: np.random.Generator, differences: NDArray[np.float64], within: float
) -> NDArray[np.float64]:
    """float64[resamples]: what the pool level adds to a resampled difference, from float64[pools, resamples] differences
    of which seeds explain the variance `within`."""
    n, resamples = differences.shape
    between = float(differences.mean(1).var(ddof=1))
    own = max(0.0, 1 - within / between) if between > 0 else 0.0
    student = rng.normal(size=(n, resamples)) * np.sqrt((n - 1) / rng.chisquare(n - 1, size=resamples))
    deviations = differences - differences.mean(0)
    return math.sqrt(own / (n * (n - 1))) * (student * deviations).sum(0)


def _weights(rng: np.random.Generator, n: int, resamples: int) -> NDArray[np.float64]:
    """float64[resamples, n]: share of each of n items in a resample of max(n - 1, 1) draws."""
    draws = max(n - 1, 1)
    return rng.multinomial(draws, np.full(n, 1 / n), size=resamples) / draws


def _check_same_questions(a: Units, b: Units) -> None:
    if not a or not b:
        raise ValueError("an arm without runs cannot be compared")
    shapes = {tuple(len(scores) for scores in unit) for unit in (*a, *b)}
    if len(shapes) > 1:
        raise ValueError(
            f"runs answered different numbers of questions: {sorted(shapes)}; a paired comparison needs the same"
        )
    if not all(next(iter(shapes))) or not next(iter(shapes)):
        raise ValueError("no benchmarks, or a benchmark without questions")


def _check_same_pools(
    a: Units, b: Units, pools_a: Sequence[int | None], pools_b: Sequence[int | None]
) -> list[int | None]:
    """The pools in order of first appearance."""
    if (len(a), len(b)) != (len(pools_a), len(pools_b)):
        raise ValueError(f"{len(a)} and {len(b)} units, but pools of {len(pools_a)} and {len(pools_b)}")
    if set(pools_a) != set(pools_b):
        raise ValueError(
            f"the arms were run on different pools: {list(dict.fromkeys(pools_a))} and {list(dict.fromkeys(pools_b))}"
        )
    return list(dict.fromkeys(pools_a))
