"""What a design can find: the smallest difference, from the variances that were seen.

    smallest_effect(components, pools=15, seeds=1, base_seeds=1, family=12)     # points, 80 % power
    needs(components, "over pools", margin=1.0, family=12)                      # the smallest such design
    table(components, family=12)                                                # rows of pools x seeds

A difference is found where the interval that holds for the whole family excludes 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluation.comparison import Components, Needs
from evaluation.statistics.family import per_comparison

POWER = 0.8
MOST_RUNS = 100
"""Designs of more repetitions of an arm than this are not proposed."""
POOLS, SEEDS = (1, 3, 5, 10, 15, 20, 30), (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Design:
    """What a design finds: `effect` with 80 % power, `half_width` of its corrected interval, in points."""

    pools: int
    seeds: int
    base_seeds: int
    effect: float | None
    half_width: float | None


def table(
    components: Components,
    family: int,
    *,
    pools: Sequence[int] = POOLS,
    seeds: Sequence[int] = SEEDS,
    base_seeds: int | None = None,
    level: float = 0.95,
) -> list[Design]:
    """Rows of pools x seeds. `base_seeds`: repetitions of the baseline on each pool; None: as many as the
    arm's. A design that says nothing (one repetition, fewer than three pools) has None."""
    rows = []
    for p in pools:
        for k in seeds:
            base = base_seeds or k
            error = standard_error(components, p, k, base)
            if error is None:
                rows.append(Design(p, k, base, None, None))
                continue
            factor, quantile = _found(error[1], per_comparison(1 - level, family), POWER)
            rows.append(Design(p, k, base, error[0] * factor, error[0] * quantile))
    return rows


def smallest_effect(
    components: Components,
    pools: int,
    seeds: int,
    base_seeds: int,
    family: int,
    *,
    level: float = 0.95,
    power: float = POWER,
) -> float | None:
    """The smallest difference, in points, that is found with this power; None where nothing can be found."""
    error = standard_error(components, pools, seeds, base_seeds)
    if error is None:
        return None
    return error[0] * _found(error[1], per_comparison(1 - level, family), power)[0]


def smallest_by_questions(
    components: Components, family: int, *, share: float = 1.0, level: float = 0.95, power: float = POWER
) -> float | None:
    """The smallest difference that any number of pools and seeds would find with `share` times as many
    questions: what the size of the benchmarks alone allows. None where the questions' part is not known."""
    if components.questions is None:
        return None
    factor = _found(np.inf, per_comparison(1 - level, family), power)[0]
    return components.questions / np.sqrt(share) * factor


def standard_error(
    components: Components, pools: int, seeds: int, base_seeds: int
) -> tuple[float, float] | None:
    """(standard error, degrees of freedom) of a difference; None where it cannot be told.

    Unknown parts count as 0, except that pools of one repetition each have the seeds in theirs.
    """
    own, base = components.seeds or 0.0, components.base_seeds or 0.0
    questions = (components.questions or 0.0) ** 2
    if pools >= 3:
        parts = [((components.pools or 0.0) ** 2 + own**2 / seeds + base**2 / base_seeds) / pools]
        df = [pools - 1]
    elif seeds > 1 and base_seeds > 1:
        parts = [own**2 / seeds / pools, base**2 / base_seeds / pools]
        df = [pools * (seeds - 1), pools * (base_seeds - 1)]
    else:
        return None
    variance = sum(parts) + questions
    uncertainty = sum(part**2 / n for part, n in zip(parts, df, strict=True))
    return variance**0.5, variance**2 / uncertainty if uncertainty > 0 else np.inf


def needs(
    components: Components,
    pools_run: int,
    *,
    margin: float,
    family: int,
    level: float = 0.95,
) -> Needs:
    """The design with the fewest runs that would find a difference of `margin`, the baseline repeated alike.

    With three pools run or more, it is of pools; with one or two, of repetitions on those: what another pool
    would add is then not known.
    """
    alone = smallest_by_questions(components, family, level=level)
    if alone is not None and alone >= margin:
        return Needs(
            None, None, f"the questions alone leave {alone:.1f} points: only more of them would help"
        )
    pools = range(3, MOST_RUNS + 1) if pools_run >= 3 else (pools_run,)
    designs = sorted(
        ((p, k) for p in pools for k in range(1, MOST_RUNS // p + 1)), key=lambda d: (d[0] * d[1], -d[0])
    )
    for p, k in designs:
        effect = smallest_effect(components, p, k, k, family, level=level)
        if effect is not None and effect <= margin:
            return Needs(p, k)
    return Needs(None, None, f"more than {MOST_RUNS} runs of each arm")


def _found(df: float, alpha: float, power: float) -> tuple[float, float]:
    """(difference found with `power`, half-width of the interval) in standard errors, two-sided `alpha`."""
    inverse, differences, quantiles = _of_level(alpha, power)
    at = 1 / max(df, 1.0)
    # Linear in 1 / df on a logarithmic scale: within 0.5 % between the knots.
    return tuple(float(np.exp(np.interp(at, inverse, np.log(y)))) for y in (differences, quantiles))  # type: ignore[return-value]


@lru_cache(maxsize=256)
def _of_level(alpha: float, power: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots of 1 / df, with the noncentrality of the t test that has this power, and the t quantile."""
    from scipy.optimize import brentq
    from scipy.stats import nct, norm
    from scipy.stats import t as student

    knots = np.array([1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 14, 20, 40, 100, 1000.0])
    quantiles = student.isf(alpha / 2, knots)
    differences = [
        brentq(lambda d, q=q, n=n: nct.sf(q, n, d) - power, 0, 4 * q + 10)
        for q, n in zip(quantiles, knots, strict=True)
    ]
    z = norm.isf(alpha / 2)
    order = slice(None, None, -1)
    return (
        np.append(1 / knots, 0)[order],
        np.append(differences, z + norm.ppf(power))[order],
        np.append(quantiles, z)[order],
    )
