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
    Raises ValueError when the arms do not have the same questions.
    """
    _check_same_questions(a, b)
    rng = np.random.default_rng(seed)
    n_benchmarks = len(a[0])
    means_a, means_b = np.zeros((len(a), resamples)), np.zeros((len(b), resamples))
    for k in range(n_benchmarks):
        weights = _weights(rng, len(a[0][k]), resamples) / (n_benchmarks * (1.0 if scale is None else scale[k]))
        means_a += np.stack([unit[k] for unit in a]) @ weights.T
        means_b += np.stack([unit[k] for unit in b]) @ weights.T
    drawn = (_weights(rng, len(a), resamples).T * means_a).sum(0) - (_weights(rng, len(b), resamples).T * means_b).sum(
        0
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(grand_mean(a, scale) - grand_mean(b, scale), float(low), float(high))


def grand_mean(units: Units, scale: Sequence[float] | None = None) -> float:
    """Mean over benchmarks of the mean score over units and questions, each divided by its `scale`."""
    per_benchmark = [np.mean([unit[k].mean() for unit in units]) for k in range(len(units[0]))]
    return float(np.mean(np.asarray(per_benchmark) / (1.0 if scale is None else np.asarray(scale))))


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
