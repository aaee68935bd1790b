"""What a difference varies by when few repetitions estimate a part of its error, and many questions another.

    error = Mixture.of(units, df, question)      # variances by repetitions, and by questions
    error.p(values), error.half_width(0.05)      # two-sided p, half of the 95 % interval

A normal of unknown variance: its scales and their weights, which all are

1/4  Student's t of the whole variance, with Satterthwaite's (1946) degrees of freedom,
3/4  each part by repetitions in turn as a t of its own degrees of freedom, the rest of the variance as known
     (the generalized pivot of Weerahandi 1993), weighted by its standard deviation / degrees of freedom.

Neither is enough alone. The first is too narrow: chance makes a part of few degrees of freedom small just
where they then seem to matter little (three pools: simulated coverage 92 to 93 % at a nominal 95 %, and 7
times the false claims at a nominal 0.3 %). The second is too wide (up to 98 and 99 %). The shares were chosen
on normal numbers with known variances; what both together cover is simulated with answers to questions
(tests/benchmarks/RESULTS.md, "Statistics"). With one part and nothing else, both are Student's t, exactly.

Of differences that are tested together only the second is used (`alone` false): so far out in the tails the
first errs more, and 19 arms of three noisy seeds against a baseline of ten would be claimed too often.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
NODES = 64
SATTERTHWAITE = 0.25
MOST_DF = 1000.0
"""More degrees of freedom are taken as so many: t is then normal within 0.2 %."""


@dataclass(frozen=True)
class Mixture:
    """scales, weights: float64[n, nodes], standard deviations of the normals and their shares. scale:
    float64[n], standard error: 0 without any variance, NaN where it is not known."""

    scales: Floats
    weights: Floats
    scale: Floats

    @classmethod
    def of(cls, units: Floats, df: Floats, question: Floats, *, alone: bool = True) -> "Mixture":
        """units, df: float64[n, parts], variances by repetitions; question: float64[n], variance that is
        known. A part without variance counts for nothing. alone: whether each is tested by itself."""
        total = units.sum(1) + question
        known, df = np.where(total > 0, total, 1.0), np.nan_to_num(df, nan=1.0)
        share, rest = np.nan_to_num(units) / known[:, None], np.nan_to_num(question) / known
        rest = np.where(total > 0, rest, 1.0)
        lost = (np.square(share) / df).sum(1)
        whole_df = np.divide(1.0, lost, out=np.full_like(lost, MOST_DF), where=lost > 1 / MOST_DF)
        first = _student(np.ones_like(rest), whole_df, np.zeros_like(rest))
        of_first = SATTERTHWAITE if alone else 0.0
        scales, weights = [first[0]], [of_first * first[1]]
        importance = np.sqrt(share) / df
        sums = importance.sum(1, keepdims=True)
        importance = np.where(sums > 0, importance / np.where(sums > 0, sums, 1.0), 1 / share.shape[1])
        for part in range(share.shape[1]):
            others = rest + share.sum(1) - share[:, part]
            scale, weight = _student(share[:, part], df[:, part], others)
            scales.append(scale)
            weights.append((1 - of_first) * importance[:, part, None] * weight)
        return cls(np.concatenate(scales, 1), np.concatenate(weights, 1), np.sqrt(total))

    def p(self, values: ArrayLike) -> Floats:
        """float64[n]: probability beyond +-`values`. Without variance 1 for a value of 0, 0 for others."""
        size = np.abs(np.asarray(values, dtype=np.float64))
        some = (self.scale > 0) & (size > 0)
        at = np.where(some, size, 1.0) / np.where(self.scale > 0, self.scale, 1.0)
        p = np.minimum(self._beyond(at)[0], 1.0)
        return np.where(np.isnan(self.scale), np.nan, np.where(some, p, np.where(size == 0, 1.0, 0.0)))

    def half_width(self, alpha: float) -> Floats:
        """float64[n]: the value whose p is `alpha`, half the interval of level 1 - `alpha`."""
        log_at = np.full(len(self.scale), np.log(2.0))
        # Newton's steps on log p over log value, where the tail of a t is a line. Both fall ever faster, so
        # that a step is never too long from the left, and the first from the right is bounded.
        for _ in range(60):
            at = np.exp(log_at)
            p, density = self._beyond(at)
            step = np.clip(np.log(p / alpha) * p / (at * density), -1.0, 1.0)
            log_at += step
            if np.max(np.abs(step), initial=0.0) < 1e-12:
                break
        return np.exp(log_at) * self.scale

    def _beyond(self, at: Floats) -> tuple[Floats, Floats]:
        """float64[n] each, of values in standard errors: probability beyond them, and how fast it falls."""
        from scipy.special import ndtr

        z = at[:, None] / self.scales
        p = 2 * (self.weights * ndtr(-z)).sum(1)
        density = np.sqrt(2 / np.pi) * (self.weights * np.exp(-(z**2) / 2) / self.scales).sum(1)
        return p, density


def _student(unit: Floats, df: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """float64[n, NODES] each: sqrt(unit) t + sqrt(rest) z is normal with these scales, with these weights.

    Its variance is unit df / w + rest for w of chi-square; nodes are equally spaced in log w, over which the
    trapezoidal rule converges faster than any power of the step.
    """
    from scipy.special import gammaln

    f = np.clip(df, 1.0, MOST_DF)[:, None]
    log_gamma = gammaln(f / 2)
    low = np.log(2) + 2 / f * (np.log(1e-13) + log_gamma + np.log(f / 2))
    high = np.log(f + 8 * np.sqrt(2 * f) + 32)
    log_w = low + (high - low) * np.linspace(0, 1, NODES)
    density = np.exp(f / 2 * (log_w - np.log(2)) - np.exp(log_w) / 2 - log_gamma)
    weights = density / density.sum(1, keepdims=True)
    return np.sqrt(unit[:, None] * f * np.exp(-log_w) + rest[:, None]), weights
