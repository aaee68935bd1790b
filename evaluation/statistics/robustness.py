"""Whether a difference hangs on few benchmarks: the same difference under other weights of them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison import Robustness
from evaluation.statistics.crossed import Estimates, Pair, Tested, estimates, family_of

MME = "mme"
DRAWS = 4000


def robustness(
    tested: Tested,
    names: Sequence[str],
    *,
    chance: Sequence[float] | None = None,
    level: float = 0.95,
) -> Robustness | None:
    """How the difference moves with its benchmarks; None where there is one only.

    `chance`: score of a guess on each, in points (% of its scale); None: no chance-corrected difference.
    A claim rests on a benchmark if the interval without it, at the level of the family (`Tested.alpha`), no
    longer excludes 0 on the same side.
    """
    k = len(names)
    if k < 2:
        return None
    without = (1 - np.eye(k)) / (k - 1)
    rows = without if chance is None else np.vstack([without, corrected_weights(chance)])
    moved = estimates(tested.pair, rows)
    found = family_of(moved, np.zeros(len(rows), dtype=bool), level).differences
    by_name = dict(zip(names, found[:k], strict=True))
    return Robustness(
        without=by_name,
        rests_on=tuple(name for name, own in zip(names, _rests_on(tested, moved), strict=False) if own),
        median=float(np.median(tested.pair.values)),
        chance_corrected=None if chance is None else found[k],
        without_mme=by_name.get(MME),
        above_null=above_null(tested.pair),
    )


def corrected_weights(chance: Sequence[float]) -> NDArray[np.float64]:
    """float64[benchmarks]: weights of differences in points for those in % of (scale - chance)."""
    return 100 / (100 - np.asarray(chance, dtype=np.float64)) / len(chance)


def _rests_on(tested: Tested, without: Estimates) -> list[bool]:
    """Whether the claim of a difference would not be made with each of these; False where none is made."""
    whole = tested.difference
    sign = 1 if whole.corrected_low > 0 else -1 if whole.corrected_high < 0 else 0
    bounds = sign * without.values - without.tested_with(tested.family).half_width(tested.alpha)
    return [sign != 0 and bound <= 0 for bound in bounds.tolist()]


def above_null(pair: Pair, draws: int = DRAWS) -> tuple[int, int] | None:
    """2.5 % and 97.5 % quantile of the number of benchmarks above the baseline if there is no difference.

    Drawn from the crossed model as it was estimated: what repetitions move on all benchmarks together makes
    the count vary more than a binomial of independent benchmarks would. The same draws for every arm.
    """
    if not pair.parts:
        return None
    rng = np.random.default_rng(0)
    answers = np.sum([part.share * part.answers for part in pair.parts], axis=0)
    own = np.sqrt(np.maximum(pair.questions - answers, 0))
    drawn = own * rng.standard_normal((draws, len(own)))
    for part in pair.parts:
        factors = part.deviations * math.sqrt(part.share / part.df)
        drawn += rng.standard_normal((draws, len(factors))) @ factors
    low, high = np.quantile((drawn > 0).sum(1), [0.025, 0.975], method="closest_observation")
    return int(low), int(high)
