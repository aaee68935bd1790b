"""Made-up experiments whose true difference is known: how often an interval covers it, how often a table of
arms that are all alike makes a claim.

`draw` makes binary answers to 300 questions a benchmark and gives the product what it gets from real runs.
`draw_nulls` draws the moments of the same world as normal numbers, so that a table of 20 arms is cheap.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from evaluation.statistics.crossed import Arm, Estimates, Pair, Repetitions, estimates, paired, stacked
from evaluation.statistics.family import per_comparison

QUESTIONS, BATCH = 300, 50
NOISY, STABLE, OTHERS = (0.3, 0.7), (0.05, 0.95), 1 / 15


@dataclass(frozen=True)
class World:
    """An arm and its baseline. Noise in points, as standard deviations.

    unit, base_unit: of a repetition's level on all benchmarks, beside its answers. pool_effect: of the
    difference between pools. Answers: each question is right with a probability of 0.3 to 0.7, drawn for each
    arm; with 14 benchmarks a repetition's mean then has 0.75 points of noise by answers, and a difference
    0.25 by questions. stable: the probability is 0.05 or 0.95, and one in 15 may have another for one of
    the arms: 0.34 points by answers, 0.25 by questions. `shift`: the true difference.
    """

    pools: int = 1
    seeds: int = 3
    unit: float = 0.0
    base_unit: float = 0.0
    pool_effect: float = 0.0
    benchmarks: int = 14
    stable: bool = False
    shift: float = 0.0
    base_seeds: int | None = None

    @property
    def answers(self) -> float:
        """Standard deviation that the answers of one repetition give its mean."""
        low, high = STABLE if self.stable else NOISY
        right = low * (1 - low) if self.stable else 0.25 - (high - low) ** 2 / 12
        return 100 * float(np.sqrt(right / (QUESTIONS * self.benchmarks)))

    @property
    def questions(self) -> float:
        """Standard deviation that the choice of questions alone gives a difference."""
        low, high = STABLE if self.stable else NOISY
        of_one = OTHERS / 2 if self.stable else 1 / 6
        return 100 * float(np.sqrt((high - low) ** 2 * of_one / (QUESTIONS * self.benchmarks)))


def draw(world: World, experiments: int, seed: int) -> tuple[Estimates, NDArray[np.float64]]:
    """What the product makes of so many experiments, each alone, and the true difference of each.

    With one pool or two the true one is that on these pools.
    """
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for begin in range(0, experiments, BATCH):
        arms, pairs = {}, {}
        for at in range(min(BATCH, experiments - begin)):
            right = _probabilities(world, rng)
            moved = rng.normal(0, world.pool_effect / np.sqrt(2), (2, world.pools))
            arms[f"arm {at}"] = _arm(right[0], moved[0] + world.shift, world.seeds, world.unit, rng)
            base = world.base_seeds or world.seeds
            arms[f"base {at}"] = _arm(right[1], moved[1], base, world.base_unit, rng)
            pairs[f"arm {at}"] = f"base {at}"
            truth.append(world.shift + (float((moved[0] - moved[1]).mean()) if world.pools < 3 else 0.0))
        moments = paired(arms, pairs, [["all"] * QUESTIONS] * world.benchmarks)
        mean = np.full((1, world.benchmarks), 1 / world.benchmarks)
        found.append(stacked([estimates(pair, mean) for pair in moments.values()]))
    return stacked(found), np.array(truth)


def _probabilities(world: World, rng: np.random.Generator) -> NDArray[np.float32]:
    """float32[2, all questions]: of a right answer, without what a repetition or a pool adds."""
    n = QUESTIONS * world.benchmarks
    if not world.stable:
        return rng.uniform(*NOISY, (2, n)).astype(np.float32)
    own = rng.random((3, n)) < 0.5
    other = rng.random(n)
    of_arms = [np.where(other < OTHERS / 2, own[1], own[0]), np.where(other > 1 - OTHERS / 2, own[2], own[0])]
    return np.where(of_arms, STABLE[1], STABLE[0]).astype(np.float32)


def _arm(
    right: NDArray[np.float32],
    of_pools: NDArray[np.float64],
    seeds: int,
    unit: float,
    rng: np.random.Generator,
) -> Arm:
    pools = np.repeat(np.arange(len(of_pools)), seeds)
    levels = (of_pools[pools] + rng.normal(0, unit, len(pools))) / 100
    answers = rng.random((len(pools), len(right)), dtype=np.float32) < right + levels[:, None].astype(
        np.float32
    )
    scores = 100.0 * answers.reshape(len(pools), -1, QUESTIONS)
    return Arm(scores, pools.tolist())


def draw_nulls(world: World, arms: int, tables: int, seed: int) -> Estimates:
    """`tables` of so many arms, all alike and like the baseline that they share: one after the other.

    Normal numbers with the moments of the world; the mean over benchmarks stands as a single benchmark.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(tables):
        base = _repetitions(world, world.base_seeds or world.seeds, world.base_unit, rng)
        for _ in range(arms):
            own = _repetitions(world, world.seeds, world.unit, rng)
            found.append(estimates(_pair(world, own, base, rng), np.ones((1, 1))))
    return stacked(found)


def _repetitions(world: World, seeds: int, unit: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """float64[pools, seeds]: means over all questions, without the questions' part."""
    of_pools = rng.normal(0, world.pool_effect / np.sqrt(2), (world.pools, 1)) if world.pools > 2 else 0.0
    return of_pools + rng.normal(0, np.hypot(unit, world.answers), (world.pools, seeds))


def _pair(
    world: World, arm: NDArray[np.float64], base: NDArray[np.float64], rng: np.random.Generator
) -> Pair:
    """The moments that `paired` would find; variances by questions have thousands of degrees of freedom, and
    are taken as known."""
    sides = [_within(side, world) for side in (arm, base)]
    of_pools = arm.mean(1) - base.mean(1)
    answers = sum(side.share for side in sides) * world.answers**2
    parts = tuple(sides)
    if world.pools > 2:
        around = (of_pools - of_pools.mean())[:, None]
        parts = (Repetitions(around, world.pools - 1, 1 / world.pools, np.array([answers * world.pools])),)
    return Pair(
        values=np.array([world.shift + of_pools.mean() + rng.normal(0, world.questions)]),
        questions=np.array([world.questions**2 + answers]),
        questions_df=np.array([4000.0]),
        parts=parts,
        within=(sides[0], sides[1]),
        pools=world.pools,
    )


def _within(side: NDArray[np.float64], world: World) -> Repetitions:
    pools = len(side)
    around = (side - side.mean(1, keepdims=True)).reshape(-1, 1)
    return Repetitions(around, max(side.size - pools, 1), 1 / side.size, np.array([world.answers**2]))


def grid() -> dict[str, World]:
    """The settings over which coverage is simulated, by name: "3 x 5, unequal noise, ..."."""
    worlds = {}
    for stable, benchmarks in product((True, False), (1, 14)):
        # With the answers of 14 benchmarks: 0.75 both, or 0.5 and 1.7 points; noisy ones alone make 0.75.
        noises = ((0.67, 0.67), (0.37, 1.67)) if stable else ((0.0, 0.0), (0.0, 1.53))
        for pools, seeds, noise, pool_effect in product((1, 3), (3, 5), noises, (0.0, 0.8)):
            name = (
                f"{pools} x {seeds}, {'equal' if noise == noises[0] else 'unequal'} noise, "
                f"pool effect {pool_effect:g}, {benchmarks} benchmarks, "
                f"{'stable' if stable else 'noisy'} answers"
            )
            worlds[name] = World(pools, seeds, *noise, pool_effect, benchmarks, stable)
    return worlds


def null_tables() -> dict[str, World]:
    """Designs for tables of nulls, by name: 14 benchmarks with noisy answers, pool effect 0.8."""
    designs = ((1, 3, 3), (1, 3, 10), (1, 5, 3), (1, 5, 10), (3, 5, 3), (3, 5, 10), (15, 1, 1), (15, 1, 3))
    return {
        f"{p} x {k}, baseline {p} x {base}": World(p, k, pool_effect=0.8, base_seeds=base)
        for p, k, base in designs
    }


def coverage(world: World, experiments: int, seed: int = 1) -> float:
    """Share of the 95 % intervals that hold the true difference, in %."""
    found, truth = draw(world, experiments, seed)
    return 100 * float(np.mean(np.abs(found.values - truth) <= found.error.half_width(0.05)))


def claimed(world: World, arms: int, tables: int, *, corrected: bool = True, seed: int = 1) -> float:
    """Share of the tables of nulls in which any arm beats or loses to the baseline, in %."""
    found = draw_nulls(world, arms, tables, seed)
    family = arms if corrected else 1
    blocks = [part.tested_with(family).p(part.values) for part in _blocks(found)]
    p = np.concatenate(blocks).reshape(tables, arms)
    return 100 * float(np.mean((p < (per_comparison(0.05, arms) if corrected else 0.05)).any(1)))


def power(world: World, experiments: int, seed: int = 1) -> float:
    """Share of experiments in which the arm beats its baseline, tested alone, in %."""
    found = draw_nulls(world, 1, experiments, seed)
    return 100 * float(np.mean(found.values > found.error.half_width(0.05)))


def equivalent(world: World, margin: float, experiments: int, seed: int = 1) -> float:
    """Share of experiments whose arm is called equivalent within the margin, tested alone, in %."""
    found = draw_nulls(world, 1, experiments, seed)
    return 100 * float(np.mean(np.abs(found.values) + found.error.half_width(0.1) <= margin))


def _blocks(found: Estimates, size: int = 4000) -> list[Estimates]:
    """A mixture takes 200 numbers for each row."""
    return [
        Estimates(*(part[at : at + size] for part in (found.values, found.units, found.df, found.question)))
        for at in range(0, len(found.values), size)
    ]
