"""What a design can find: the smallest difference, from the variances that were seen.

    smallest_effect(components, pools=15, seeds=1, base_seeds=1, family=12)     # points, 80 % power
    needs(components, pools_run=3, margin=1.0, family=12)                       # the smallest such design
    table(components, family=12)                                                # rows of pools x seeds

A difference is found where the interval that holds for the whole family excludes 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.comparison import Components, Needs
from evaluation.statistics.family import per_comparison
from evaluation.statistics.mixture import Mixture

POWER = 0.8
MOST_RUNS = 100
"""Designs of more repetitions of an arm than this are not proposed."""
POOLS, SEEDS = (1, 3, 5, 10, 15, 20, 30), (1, 2, 3, 5, 10)
Floats = NDArray[np.float64]
CHANCES, GOLDEN = 32, (math.sqrt(5) - 1) / 2
"""Values that the variances of the repetitions may be estimated as, and the step that spreads the second over
those of the first."""
BISECTIONS = 24
"""Each halves what is not known of a smallest difference: to 1e-7 of it."""


@dataclass(frozen=True)
class Error:
    """The error of a difference that a design leaves: variances by repetitions with their degrees of freedom,
    and variance by questions; tested with the others of its family."""

    units: tuple[float, ...]
    df: tuple[float, ...]
    question: float
    family: int = 1

    @property
    def stderr(self) -> float:
        return math.sqrt(sum(self.units) + self.question)

    def half_width(self, alpha: float, seen: ArrayLike = 1.0) -> Floats:
        """float64[n]: half the interval where `seen`, float64[n, parts], times the variances by repetitions
        are estimated."""
        units = np.atleast_2d(np.asarray(self.units) * np.asarray(seen))
        df = np.broadcast_to(np.asarray(self.df, dtype=np.float64), units.shape)
        question = np.full(len(units), self.question)
        return Mixture.of(units, df, question, alone=self.family < 2).half_width(alpha)

    def chances(self) -> Floats:
        """float64[CHANCES, parts]: chi-square / df, all equally likely."""
        from scipy.special import chdtri

        at = (np.arange(CHANCES)[:, None] * (1.0, GOLDEN) / (CHANCES, 1.0) + 0.5 / CHANCES) % 1
        return np.stack([chdtri(df, own) / df for df, own in zip(self.df, at.T, strict=False)], axis=1)


@dataclass(frozen=True)
class Design:
    """What a design finds: `effect` with 80 % power; half the width of its corrected interval. In points;
    None where nothing can be found (fewer than two repetitions of a side, fewer than three pools)."""

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
    """A row for each of pools x seeds. `base_seeds`: repetitions of the baseline on each pool; None: as many
    as the arm's."""
    alpha = per_comparison(1 - level, family)
    rows = []
    for p in pools:
        for k in seeds:
            base = base_seeds or k
            effect = smallest_effect(components, p, k, base, family, level=level)
            error = error_of(components, p, k, base, family)
            half = None if error is None else float(error.half_width(alpha)[0])
            rows.append(Design(p, k, base, effect, half))
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
    error = error_of(components, pools, seeds, base_seeds, family)
    return None if error is None else smallest_of(error, per_comparison(1 - level, family), power)


def smallest_by_questions(
    components: Components, family: int, *, share: float = 1.0, level: float = 0.95, power: float = POWER
) -> float | None:
    """The smallest difference that any number of pools and seeds would find with `share` times as many
    questions: what the size of the benchmarks alone allows. None where the questions' part is not known."""
    if components.questions is None:
        return None
    alone = Error((0.0,), (1.0,), components.questions**2 / share)
    return smallest_of(alone, per_comparison(1 - level, family), power)


def error_of(
    components: Components, pools: int, seeds: float, base_seeds: float, family: int = 1
) -> Error | None:
    """The error that a design leaves; None where its own repetitions could not tell.

    Components that are not known count as 0, except that pools of one repetition each have the repetition in
    theirs.
    """
    own, base = (components.seeds or 0.0) ** 2 / seeds, (components.base_seeds or 0.0) ** 2 / base_seeds
    question = (components.questions or 0.0) ** 2
    if pools >= 3:
        of_pools = ((components.pools or 0.0) ** 2 + own + base) / pools
        return Error((of_pools,), (pools - 1,), question, family)
    if seeds < 2 or base_seeds < 2:
        return None
    df = (pools * (seeds - 1), pools * (base_seeds - 1))
    return Error((own / pools, base / pools), df, question, family)


def needs(
    components: Components,
    pools_run: int,
    repetitions: tuple[float, float] = (1, 1),
    *,
    margin: float,
    family: int,
    level: float = 0.95,
) -> Needs:
    """The fewest runs that would find a difference of `margin`, the baseline repeated alike.

    With three pools run or more they are of pools, one repetition on each: of a number of runs, no other
    division leaves less variance. With one or two they are repetitions on those, as what another pool adds is
    not known. `repetitions` of arm and baseline on each pool run: a design like it is not asked for again.
    """
    alpha = per_comparison(1 - level, family)
    alone = smallest_by_questions(components, family, level=level)
    if alone is not None and alone >= margin:
        return Needs(
            None, None, f"more questions: with these, no number of runs finds less than {alone:.1f} points"
        )
    ran = error_of(components, pools_run, *repetitions, family)
    if ran is not None and _power(ran, alpha)(margin) >= POWER:
        return Needs(None, None, "no more runs than these: the difference is too close to 0 or to the margin")

    def finds(runs: int) -> bool:
        design = (runs, 1, 1) if pools_run >= 3 else (pools_run, runs, runs)
        error = error_of(components, *design, family)
        return error is not None and _power(error, alpha)(margin) >= POWER

    most = MOST_RUNS if pools_run >= 3 else MOST_RUNS // pools_run
    fewest = _first(finds, 3 if pools_run >= 3 else 2, most)
    if fewest is None:
        return Needs(None, None, f"more than {MOST_RUNS} runs of each arm")
    return Needs(fewest, 1) if pools_run >= 3 else Needs(pools_run, fewest)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest whole number for which `holds`, which does for all greater ones; None if none does."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def smallest_of(error: Error, alpha: float, power: float = POWER) -> float:
    """The difference that excludes 0 with this power at the two-sided level `alpha`; 0 without any error."""
    if error.stderr == 0:
        return 0.0
    chance = _power(error, alpha)
    low, high = 0.0, error.stderr
    while chance(high) < power:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle) >= power else (middle, high)
    return (low + high) / 2


def _power(error: Error, alpha: float) -> Callable[[float], float]:
    """The chance that a difference of so many points is found (on its own side)."""
    from scipy.special import ndtr

    if error.stderr == 0:
        return lambda effect: float(effect > 0)
    half = error.half_width(alpha, error.chances())
    return lambda effect: float(np.mean(ndtr((effect - half) / error.stderr)))
