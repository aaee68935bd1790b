"""The error of a difference between two arms: repetitions and questions as crossed random effects.

    tested = differences({"mmssr": arm, "random": base}, {"mmssr": "random"}, strata)
    tested["mmssr"].difference, .components          # then claims.claim, robustness.robustness, power

A score is y[i, q] = arm + question + arm x question + repetition + repetition x question, where the last is
what the answers of one repetition vary by. Repetitions i and questions q are drawn, benchmarks are fixed, and
all repetitions answer the same questions, so that the question's own level cancels in a difference. The
variance of a difference of means is then estimated without bias by (Cornfield & Tukey 1956, table 3; Brennan
2001, section 3.3)

    V = U + max(0, Q - R)

U: of the means of the repetitions over all questions, s^2 / n, the two arms' added. It contains the answers.
Q: of the mean difference of each question, s^2 / n within its stratum. It contains the answers once more.
R: the answers alone, from the repetition x question mean square: counted in both, it is taken off once.

Three pools or more are drawn too: the repetition is then the difference on one pool, which all arms share,
and U is s^2 / pools with everything in it that varies from pool to pool. One pool or two are fixed: U is of
the repetitions inside the pools, each pool weighs alike, and the difference is that on these pools.

U has few degrees of freedom, Q - R has many: `mixture` says what a difference with such an error varies by.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison import Components, Difference
from evaluation.statistics.basic import stratum_rows
from evaluation.statistics.family import adjusted, per_comparison
from evaluation.statistics.mixture import Mixture

Floats = NDArray[np.float64]
EQUAL = 1e-9
"""Repetitions that vary by less than this share of what their answers do have equal means, but for rounding.
"""
POOLS_DRAWN = 3
"""From so many pools on, pools count as drawn and a claim is about pools in general."""


@dataclass(frozen=True)
class Arm:
    """The scores of an arm, in points: [repetition][benchmark] -> float64[questions], and the pool of each
    repetition. A repetition is a run of its own (a selection seed, or a training seed of one selection)."""

    scores: Sequence[Sequence[Floats]]
    pools: Sequence[int | None]


@dataclass(frozen=True)
class Repetitions:
    """What one kind of repetition adds to the variance of a difference.

    deviations: float64[repetitions, benchmarks], means around those of their group. df: degrees of freedom.
    share: variance of the difference for one unit of variance of a repetition. answers: float64[benchmarks],
    variance of one repetition's mean by its answers.
    """

    deviations: Floats
    df: int
    share: float
    answers: Floats

    def variance(self, weights: Floats) -> Floats:
        """float64[rows of weights]: s^2 of one repetition's weighted mean over benchmarks.

        Means of few right or wrong answers are often equal by their grain alone: where they are, although the
        answers differ, the variance is that of the answers, which it would be at least.
        """
        seen = np.square(weights @ self.deviations.T).sum(-1) / self.df
        of_answers = np.square(weights) @ self.answers
        return np.where(seen > EQUAL * of_answers, seen, of_answers)


@dataclass(frozen=True)
class Pair:
    """What is kept of an arm and its baseline: enough for the error of any weighted mean over benchmarks.

    values: float64[benchmarks], differences. questions, questions_df: variance of each over its questions,
    answers included. parts: the repetitions that make up U; none where they cannot be told from a single
    one. within: the repetitions of arm and baseline inside their pools, None where each pool has one.
    """

    values: Floats
    questions: Floats
    questions_df: Floats
    parts: tuple[Repetitions, ...]
    within: tuple[Repetitions | None, Repetitions | None]
    pools: int

    @property
    def repetitions(self) -> tuple[float, float]:
        """Of the arm and of the baseline on each pool: the harmonic mean where pools have different ones."""
        arm, base = (1.0 if part is None else 1 / (part.share * self.pools) for part in self.within)
        return arm, base


@dataclass(frozen=True)
class Estimates:
    """Differences with what their error consists of; NaN where it is not known.

    values: float64[n]. units, df: float64[n, 2], variances by repetitions with their degrees of freedom: of
    the arm and of the baseline, or of the pools and nothing. question: float64[n], variance by questions.
    """

    values: Floats
    units: Floats
    df: Floats
    question: Floats

    @property
    def error(self) -> Mixture:
        """What the differences vary by."""
        return self.tested_with(1)

    def tested_with(self, family: int) -> Mixture:
        """The same, for tests that are `family` together."""
        return Mixture.of(self.units, self.df, self.question, alone=family < 2)

    @property
    def whole_df(self) -> Floats:
        """float64[n]: Satterthwaite's degrees of freedom of the whole error: a description."""
        lost = (np.square(self.units) / self.df).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(lost == 0, np.inf, np.square(self.units.sum(1) + self.question) / lost)


@dataclass(frozen=True)
class Tested:
    """A difference, tested at once with the others of its family.

    inside: bounds of the interval of level 1 - 2 x `alpha`, for two one-sided tests of equivalence. alpha:
    two-sided level of each single test, such that those of the whole family hold at once. family: how many
    they are; 0 if this one is not among them.
    """

    difference: Difference
    components: Components
    inside: tuple[float, float]
    alpha: float
    family: int
    pair: Pair


def differences(
    arms: Mapping[str, Arm],
    pairs: Mapping[str, str],
    strata: Sequence[Sequence[Any]],
    *,
    level: float = 0.95,
    anchors: Collection[str] = (),
    others: int = 0,
) -> dict[str, Tested]:
    """Each arm of `pairs` (arm -> its baseline) against its baseline, as one family of tests.

    `strata`: the category of each question of each benchmark. `anchors`: arms of `pairs` about which nothing
    is claimed (full data, no training), outside the family: their corrected values are NaN, as are those of
    arms whose error is not known. `others`: tests of the family that are made elsewhere (in other cells of a
    sweep). Raises ValueError for unequal questions or pools.
    """
    of_pairs = paired(arms, pairs, strata)
    whole = [estimates(pair, np.full((1, len(strata)), 1 / len(strata))) for pair in of_pairs.values()]
    claimed = np.array([name not in anchors for name in of_pairs], dtype=bool)
    found = family_of(stacked(whole), claimed, level, others)
    return {
        name: Tested(found.differences[at], components(pair), found.inside[at], found.alpha, found.size, pair)
        if claimed[at]
        else Tested(found.differences[at], components(pair), found.inside[at], found.alpha, 0, pair)
        for at, (name, pair) in enumerate(of_pairs.items())
    }


def cells(tested: Mapping[str, Tested], *, level: float = 0.95) -> dict[str, list[Difference]]:
    """The difference of each arm on each benchmark: a family of its own, of all arms x benchmarks."""
    if not tested:
        return {}
    all_cells = [estimates(one.pair, np.eye(len(one.pair.values))) for one in tested.values()]
    flat = stacked(all_cells)
    claimed = np.repeat([one.family > 0 for one in tested.values()], len(all_cells[0].values))
    found = family_of(flat, claimed, level).differences
    k = len(all_cells[0].values)
    return {name: list(found[at * k : (at + 1) * k]) for at, name in enumerate(tested)}


@dataclass(frozen=True)
class Family:
    """Differences that hold at once; see `Tested`."""

    differences: tuple[Difference, ...]
    inside: tuple[tuple[float, float], ...]
    alpha: float
    size: int


def family_of(found: Estimates, claimed: NDArray[np.bool_], level: float, others: int = 0) -> Family:
    """The intervals and p of all `found`, corrected for the number of those that are `claimed` and known, and
    for `others`."""
    error = found.error
    size = int(np.sum(claimed & ~np.isnan(error.scale))) + others
    alpha = per_comparison(1 - level, max(size, 1))
    together = found.tested_with(size)
    far, one_sided = np.where(claimed, together.half_width(alpha), np.nan), together.half_width(2 * alpha)
    v, se, df, own = found.values, error.scale, found.whole_df, error.half_width(1 - level)
    p_all = np.where(claimed, adjusted(together.p(v), max(size, 1)), np.nan)
    rows = np.stack([v, v - own, v + own, se, df, error.p(v), v - far, v + far, p_all], axis=1)
    inside = np.stack([v - one_sided, v + one_sided], axis=1)
    return Family(
        tuple(Difference(*row) for row in rows.tolist()),
        tuple((low, high) for low, high in inside.tolist()),
        alpha,
        size,
    )


def estimates(pair: Pair, weights: Floats) -> Estimates:
    """The error of each weighted sum of the benchmarks' differences; weights: float64[sums, benchmarks]."""
    values = weights @ pair.values
    n = len(values)
    if not pair.parts:
        unknown = np.full((n, 2), np.nan)
        return Estimates(values, unknown, unknown, unknown[:, 0])
    squared = np.square(weights)
    units, df = np.zeros((n, 2)), np.ones((n, 2))
    for at, part in enumerate(pair.parts):
        units[:, at], df[:, at] = part.share * part.variance(weights), part.df
    answers = sum(part.share * (squared @ part.answers) for part in pair.parts)
    questions = squared @ pair.questions
    alone = np.maximum(questions - answers, 0) * _of_few(pair, squared, questions)
    return Estimates(values, units, df, alone)


def _of_few(pair: Pair, squared: Floats, questions: Floats) -> Floats:
    """The variance of a t of so many degrees of freedom as the questions' variance has: 1 for many."""
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.square(questions) / (np.square(squared) @ (np.square(pair.questions) / pair.questions_df))
    df = np.where(questions > 0, np.maximum(df, 3.0), np.inf)
    return 1 / (1 - 2 / df)


def components(pair: Pair) -> Components:
    """Moment estimates for the plain mean over benchmarks, negative ones 0."""
    weights = np.full((1, len(pair.values)), 1 / len(pair.values))
    squared = np.square(weights)[0]
    known = [part for part in pair.within if part is not None]
    arm, base = (None if part is None else _root(part.variance(weights)[0]) for part in pair.within)
    pools = questions = None
    if pair.pools >= POOLS_DRAWN:
        noise = sum(float(part.variance(weights)[0]) * part.share * pair.pools for part in known)
        pools = _root(pair.parts[0].variance(weights)[0] - noise)
    if pair.parts:
        twice = sum(part.share * float(squared @ part.answers) for part in pair.parts)
        questions = _root(squared @ pair.questions - twice)
    answers = _root(np.mean([squared @ part.answers for part in known])) if known else None
    return Components(pools, arm, base, questions, answers)


def _root(variance: float) -> float:
    """A standard deviation; that of a variance estimated below 0 is 0."""
    return float(np.sqrt(max(variance, 0.0)))


def paired(
    arms: Mapping[str, Arm], pairs: Mapping[str, str], strata: Sequence[Sequence[Any]]
) -> dict[str, Pair]:
    """The moments of each pair. Raises ValueError if the arms do not have the same questions or pools."""
    used = dict.fromkeys([*pairs, *pairs.values()])
    check_same_questions({name: arms[name] for name in used}, strata)
    places = [_Strata.of(of_questions) for of_questions in strata]
    sides = {name: _Side.of(arms[name], places) for name in used}
    for arm, base in pairs.items():
        if set(sides[arm].pools) != set(sides[base].pools):
            raise ValueError(
                f"arms {arm!r} and {base!r} were run on different pools: "
                f"{sorted(sides[arm].pools, key=str)} and {sorted(sides[base].pools, key=str)}"
            )
    return {arm: _pair(sides[arm], sides[base], places) for arm, base in pairs.items()}


def check_same_questions(arms: Mapping[str, Arm], strata: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError unless every repetition has one score for each question of each benchmark."""
    expected = [len(of_questions) for of_questions in strata]
    if not expected or not all(expected):
        raise ValueError("no benchmarks, or a benchmark without questions")
    for name, arm in arms.items():
        if not 0 < len(arm.scores) == len(arm.pools):
            raise ValueError(f"arm {name!r}: {len(arm.scores)} repetitions, {len(arm.pools)} pools of them")
        for at, repetition in enumerate(arm.scores):
            if (own := [len(scores) for scores in repetition]) != expected:
                raise ValueError(
                    f"arm {name!r}, repetition {at}: answered {own} questions of the benchmarks, not "
                    f"{expected}: they cannot be paired"
                )
            if not all(np.isfinite(scores).all() for scores in repetition):
                raise ValueError(f"arm {name!r}, repetition {at}: a score is not a finite number")


@dataclass(frozen=True)
class _Strata:
    """Questions of a benchmark in the order of their strata. Strata of one question are taken together, as
    one has no variation of its own (collapsed strata, Cochran 1977, section 5A.12)."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, strata: Sequence[Any]) -> "_Strata":
        rows = stratum_rows(strata)
        alone = [own for own in rows if len(own) == 1]
        rows = [own for own in rows if len(own) > 1] + ([np.concatenate(alone)] if alone else [])
        sizes = np.array([len(own) for own in rows])
        return cls(np.concatenate(rows), np.cumsum(sizes) - sizes, sizes)

    @property
    def df(self) -> int:
        return max(len(self.order) - len(self.sizes), 1)

    def variance_of_mean(self, values: Floats) -> Floats:
        """float64[...]: sum of n_h s_h^2 / n^2 over the last axis, the questions."""
        sorted_ = values[..., self.order]
        means = np.add.reduceat(sorted_, self.starts, axis=-1) / self.sizes
        deviations = sorted_ - np.repeat(means, self.sizes, axis=-1)
        squares = np.add.reduceat(deviations**2, self.starts, axis=-1)
        factor = np.where(self.sizes > 1, self.sizes / np.maximum(self.sizes - 1, 1), 0.0)
        return (squares * factor).sum(-1) / len(self.order) ** 2


@dataclass(frozen=True)
class _Side:
    """An arm: means over the repetitions of each pool, [benchmark] -> float64[pools, questions], and the
    repetitions inside the pools."""

    pools: list[int | None]
    by_pool: list[Floats]
    within: Repetitions | None

    @classmethod
    def of(cls, arm: Arm, strata: Sequence[_Strata]) -> "_Side":
        pools = sorted(dict.fromkeys(arm.pools), key=str)
        groups = [[at for at, own in enumerate(arm.pools) if own == pool] for pool in pools]
        scores = [
            np.stack([np.asarray(unit[k], dtype=np.float64) for unit in arm.scores])
            for k in range(len(strata))
        ]
        by_pool = [np.stack([own[group].mean(0) for group in groups]) for own in scores]
        df = len(arm.scores) - len(pools)
        if df == 0:
            return cls(pools, by_pool, None)
        pool_of = np.array([pools.index(pool) for pool in arm.pools])
        around = [own - means[pool_of] for own, means in zip(scores, by_pool, strict=True)]
        share = sum(1 / len(group) for group in groups) / len(pools) ** 2
        return cls(pools, by_pool, _repetitions(around, df, share, strata))


def _repetitions(around: Sequence[Floats], df: int, share: float, strata: Sequence[_Strata]) -> Repetitions:
    """From scores around the means of their group, [benchmark] -> float64[repetitions, questions]."""
    return Repetitions(
        np.stack([own.mean(-1) for own in around], axis=-1),
        df,
        share,
        np.array([place.variance_of_mean(own).sum() / df for place, own in zip(strata, around, strict=True)]),
    )


def _pair(arm: _Side, base: _Side, strata: Sequence[_Strata]) -> Pair:
    by_pool = [a - b for a, b in zip(arm.by_pool, base.by_pool, strict=True)]
    pools = len(arm.pools)
    whole = [own.mean(0) for own in by_pool]
    parts: tuple[Repetitions, ...] = ()
    if pools >= POOLS_DRAWN:
        around = [own - mean for own, mean in zip(by_pool, whole, strict=True)]
        parts = (_repetitions(around, pools - 1, 1 / pools, strata),)
    elif arm.within is not None and base.within is not None:
        parts = (arm.within, base.within)
    return Pair(
        values=np.array([own.mean() for own in whole]),
        questions=np.array([place.variance_of_mean(own) for place, own in zip(strata, whole, strict=True)]),
        questions_df=np.array([place.df for place in strata], dtype=np.float64),
        parts=parts,
        within=(arm.within, base.within),
        pools=pools,
    )


def stacked(parts: Sequence[Estimates]) -> Estimates:
    """One after the other."""
    if not parts:
        return Estimates(np.empty(0), np.empty((0, 2)), np.empty((0, 2)), np.empty(0))
    fields = ("values", "units", "df", "question")
    return Estimates(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
