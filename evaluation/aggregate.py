"""From the runs of an experiment to one comparison of arms.

    compare(experiment)       # means of each arm, /FULL, >Rand, differences with intervals, claims

A pure function of the three files of `evaluation.experiment`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evaluation.comparison import Against, ArmResult, Comparison, Spread, rounded
from evaluation.experiment import Experiment, RunAbout
from evaluation.results import ResultsError
from evaluation.score import without_questions
from evaluation.statistics.basic import mean, std, unit_weights
from evaluation.statistics.claims import claim
from evaluation.statistics.crossed import Arm, Tested, cells, differences
from evaluation.statistics.robustness import robustness
from evaluation.suite import Suite

Scores = NDArray[np.float64]


def relative_to_reference(scores: Sequence[float], reference: Sequence[float]) -> float | None:
    """/FULL of mmSSR (arXiv 2503.13383, table 1): 100 * mean over benchmarks of score / reference score.

    The reference is the arm trained on the full data. None if one of its scores is 0.
    """
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} scores against {len(reference)} reference scores")
    if any(value == 0 for value in reference):
        return None
    return 100 * mean([score / value for score, value in zip(scores, reference, strict=True)])


def leave_one_out(scores: Sequence[float], reference: Sequence[float]) -> tuple[float, float] | None:
    """Lowest and highest /FULL when any one benchmark is left out; None for one benchmark or a reference
    score of 0."""
    if len(scores) < 2 or any(value == 0 for value in reference):
        return None
    ratios = 100 * np.asarray(scores, dtype=np.float64) / np.asarray(reference, dtype=np.float64)
    without = (ratios.sum() - ratios) / (len(ratios) - 1)
    return float(without.min()), float(without.max())


def count_above(scores: Sequence[float], baseline: Sequence[float]) -> int:
    """>Rand of mmSSR (table 1): the number of benchmarks with a score strictly above the baseline's."""
    return sum(score > base for score, base in zip(scores, baseline, strict=True))


def compare(experiment: Experiment, others: int = 0) -> Comparison:
    """Compare the arms of an experiment, with all questions and without those that samples repeat.

    `others`: differences elsewhere that the corrected intervals hold for as well (other cells of a sweep).
    Without a reference or a baseline among the arms there is no /FULL, or no differences. Units with a
    repeated question are left out whole; a benchmark without any other is left out of every mean; what is
    said of how answers were read is of all answers. Raises ResultsError if no question is left.
    """
    leaked = pc.any(experiment.questions["leaked"]).as_py()
    return rounded(
        replace(
            _compared(experiment, counted(experiment), others),
            decontamination=experiment.decontamination,
            without_leaks=_compared(experiment, counted(experiment, leaks=False), others) if leaked else None,
        )
    )


def tests_of(experiment: Experiment) -> int:
    """How many differences the corrected intervals of its comparison hold for at once."""
    asked = counted(experiment)
    units = {arm.name: _Units.of(experiment, experiment.runs_of(arm.name), asked) for arm in experiment.arms}
    tested = _tested(experiment, units, experiment.suite, asked)
    return max((one.family for own in tested for one in own.values()), default=0)


# ---------------------------------------------------------------------------------------------- questions


@dataclass(frozen=True)
class Asked:
    """The units of one benchmark that count: the column of each unit's first question in the experiment's
    scores, the factor that makes the mean over units the benchmark's value, the category, and how many
    questions they have.
    """

    columns: NDArray[np.int64]
    factors: Scores
    strata: tuple[str, ...]
    questions: int

    def scores(self, of_questions: Scores) -> Scores:
        """float64[units] of float64[questions], a row of the experiment's scores."""
        return of_questions[self.columns] * self.factors

    @classmethod
    def of(cls, rows: pa.Table) -> "Asked":
        """`rows`: questions of one benchmark, with their column of the scores in `column`."""
        places: dict[str, int] = {}
        place = [places.setdefault(name, len(places)) for name in rows["unit"].to_pylist()]
        _, first = np.unique(np.array(place, dtype=np.int64), return_index=True)
        weights = np.bincount(place, weights=rows["weight"].to_numpy()).astype(np.float64)
        columns = rows["column"].to_numpy()[first]
        return cls(columns, weights * len(places), tuple(rows["stratum"].take(first).to_pylist()), len(rows))


def counted(experiment: Experiment, leaks: bool = True) -> dict[str, Asked]:
    """The units of each benchmark that has any; with `leaks` false without those that samples repeat."""
    found = {}
    columns = pa.array(np.arange(len(experiment.questions)))
    questions = experiment.questions.append_column("column", columns)
    for benchmark in experiment.suite:
        rows = questions.filter(pc.equal(questions["benchmark"], benchmark.name))
        if not leaks:
            rows = without_questions(rows, rows.filter(rows["leaked"])["id"].to_pylist())
        if len(rows):
            found[benchmark.name] = Asked.of(rows)
    return found


# ---------------------------------------------------------------------------------------------- units


@dataclass(frozen=True)
class _Units:
    """The repetitions of an arm: scores [repetition][benchmark] -> float64[units of the benchmark], and the
    pool seed of each repetition.
    """

    pools: list[int | None]
    scores: list[list[Scores]]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        runs: Sequence[int],
        asked: Mapping[str, Asked],
        scores: Scores | None = None,
    ) -> "_Units":
        """The repetitions that the runs at these positions make, with the experiment's or other `scores`.

        With several selection seeds, the training seeds of one selection are averaged: they are not
        independent selections.
        """
        scores = experiment.scores if scores is None else scores
        by_selection = len({experiment.runs[at].selection_seed for at in runs}) > 1
        members: dict[tuple[int | None, int], list[int]] = {}
        for at in runs:
            run = experiment.runs[at]
            seed = run.selection_seed if by_selection else run.train_seed
            members.setdefault((run.pool_seed, seed), []).append(at)
        keys = sorted(members, key=lambda key: (key[0] or 0, key[1]))
        return cls(
            [pool for pool, _ in keys],
            [
                [np.mean([own.scores(scores[at]) for at in members[key]], axis=0) for own in asked.values()]
                for key in keys
            ],
        )

    def in_points(self, suite: Suite) -> Arm:
        """The same scores as they enter means, see `Benchmark.percent`."""
        return Arm(
            [[b.percent(own) for b, own in zip(suite, unit, strict=True)] for unit in self.scores],
            self.pools,
        )

    def benchmark_means(self) -> list[float]:
        """Mean score of each benchmark; every pool has the same weight."""
        weights = unit_weights(self.pools)
        return [
            float(np.average([unit[k].mean() for unit in self.scores], weights=weights))
            for k in range(len(self.scores[0]))
        ]

    def means(self, suite: Suite) -> list[float]:
        """Mean over benchmarks of each unit, in %."""
        return [
            mean([b.percent(float(scores.mean())) for b, scores in zip(suite, unit, strict=True)])
            for unit in self.scores
        ]

    def by_pool(self, values: Sequence[float]) -> list[float]:
        """Mean of each pool's units, in the order of the pools."""
        pairs = list(zip(self.pools, values, strict=True))
        return [mean([value for own, value in pairs if own == pool]) for pool in dict.fromkeys(self.pools)]


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), None if len(values) < 2 else std(values))


# ---------------------------------------------------------------------------------------------- arms


def _compared(experiment: Experiment, asked: Mapping[str, Asked], others: int) -> Comparison:
    """The comparison over these questions."""
    if not asked:
        raise ResultsError("no question is left: samples of the pool repeat all of them")
    suite = experiment.suite.only(tuple(asked))
    runs = {arm.name: experiment.runs_of(arm.name) for arm in experiment.arms}
    units = {name: _Units.of(experiment, own, asked) for name, own in runs.items()}
    reference = experiment.reference if experiment.reference in units else None
    against = _against(experiment, units, suite, asked, others)
    full = units[reference].benchmark_means() if reference else None
    arms = tuple(
        ArmResult(
            arm=arm.name,
            budget=arm.budget,
            targeted=arm.targeted,
            control=arm.control,
            control_of=arm.control_of,
            anchor=arm.anchor,
            runs=len(runs[arm.name]),
            unparsed=_unparsed([experiment.runs[at] for at in runs[arm.name]], suite),
            **_scores(units[arm.name], suite),
            **_relative(units[arm.name], suite, full),
            **_nothing() | against.get(arm.name, {}),
            **_grounding(experiment, runs[arm.name], asked, suite),
        )
        for arm in experiment.arms
    )
    return Comparison(
        suite=suite,
        reference_arm=reference,
        baseline=_known(experiment.baseline, units),
        arms=arms,
        chance={b.name: experiment.chance[b.name] for b in suite},
        blind={b.name: experiment.blind[b.name] for b in suite},
        n={name: own.questions for name, own in asked.items()},
        protocol=experiment.protocol,
        pools=tuple(dict.fromkeys(units[experiment.arms[0].name].pools)),
        units={name: len(own.strata) for name, own in asked.items()},
        reading={b.name: _reading([run.benchmarks[b.name] for run in experiment.runs]) for b in suite},
    )


def _nothing() -> dict[str, Any]:
    """The fields of an ArmResult about a baseline where it has none."""
    return dict.fromkeys(("above", "difference"))


def _known(baseline: str | dict[str, str] | None, units: Mapping[str, _Units]) -> Any:
    """The baseline, None for a single one without runs."""
    return baseline if isinstance(baseline, dict) or baseline in units else None


def _pairs(experiment: Experiment) -> dict[str, str]:
    """Arm -> the one baseline, or that of the arm's budget; none is its own.

    A control of one arm has that arm's baseline: its own budget may be what the arm costs.
    """
    base, budgets = experiment.baseline, {arm.name: arm.budget for arm in experiment.arms}
    pairs = {}
    for arm in experiment.arms:
        budget = budgets.get(arm.control_of, arm.budget)
        name = base.get(budget) if isinstance(base, dict) else base
        if name is not None and name != arm.name and name in budgets:
            pairs[arm.name] = name
    return pairs


def _own_controls(experiment: Experiment, pairs: Mapping[str, str]) -> dict[str, str]:
    """Control -> the only arm that it is one of, unless it is that arm's baseline anyway."""
    names = {arm.name for arm in experiment.arms}
    return {
        arm.name: arm.control_of
        for arm in experiment.arms
        if arm.control_of in names and pairs.get(arm.control_of) != arm.name
    }


def _reading(entries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """How the answers of all runs to one benchmark were read, see `Comparison.reading`."""
    n = sum(entry["n"] for entry in entries)
    gaps = [entry["lenient"] - entry["value"] for entry in entries if entry["lenient"] is not None]
    return {
        "unparsed": sum(entry["unparsed"] for entry in entries) / n,
        "truncated": sum(entry["truncated"] for entry in entries) / n,
        "lenient": mean(gaps) if len(gaps) == len(entries) else None,
    }


def _unparsed(runs: Sequence[RunAbout], suite: Suite) -> float:
    """Share of all answers of an arm that could not be parsed."""
    entries = [run.benchmarks[b.name] for run in runs for b in suite]
    return sum(entry["unparsed"] for entry in entries) / sum(entry["n"] for entry in entries)


def _scores(units: _Units, suite: Suite) -> dict[str, Any]:
    """The fields of an ArmResult about its own scores."""
    unit_means = units.means(suite)
    pool_means = units.by_pool(unit_means)
    return {
        "units": len(unit_means),
        "unit_means": tuple(unit_means),
        "benchmarks": {
            b.name: Spread(value, _spread([unit[k].mean() for unit in units.scores]).std)
            for k, (b, value) in enumerate(zip(suite, units.benchmark_means(), strict=True))
        },
        "mean": Spread(mean(pool_means), _spread(unit_means).std),
        "pool_means": tuple(pool_means),
    }


def _relative(units: _Units, suite: Suite, reference: list[float] | None) -> dict[str, Any]:
    """The fields of an ArmResult about /FULL."""
    if not reference:
        return dict.fromkeys(("relative", "relative_std", "relative_range"))
    whole = _ratio_parts(units.benchmark_means(), reference, suite)
    of_units = [
        relative_to_reference(*_ratio_parts([scores.mean() for scores in unit], reference, suite))
        for unit in units.scores
    ]
    known = [value for value in of_units if value is not None]
    return {
        "relative": relative_to_reference(*whole),
        "relative_std": _spread(known).std if len(known) == len(of_units) else None,
        "relative_range": leave_one_out(*whole),
    }


def _ratio_parts(
    scores: Sequence[float], reference: Sequence[float], suite: Suite
) -> tuple[list[float], list[float]]:
    """(numerators, denominators) of the /FULL ratios: score / reference, inverted when lower is better."""
    pairs = [
        (score, other) if b.direction == "higher" else (other, score)
        for b, score, other in zip(suite, scores, reference, strict=True)
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _against(
    experiment: Experiment,
    units: Mapping[str, _Units],
    suite: Suite,
    asked: Mapping[str, Asked],
    others: int,
) -> dict[str, dict[str, Any]]:
    """By arm: the fields of an ArmResult about its baseline and its own controls, all of them one family."""
    names = [b.name for b in suite]
    chance = [b.percent(experiment.chance[b.name]) for b in suite]
    tested, of_controls = _tested(experiment, units, suite, asked, others)
    of_benchmarks = cells(tested)
    fields: dict[str, dict[str, Any]] = {}
    for name, base in _pairs(experiment).items():
        own, other = units[name], units[base]
        means = zip(*(side.by_pool(side.means(suite)) for side in (own, other)), strict=True)
        fields[name] = {
            "baseline": base,
            "above": count_above(_higher_is_better(own, suite), _higher_is_better(other, suite)),
            "difference": tested[name].difference,
            "pool_differences": tuple(x - y for x, y in means),
            "benchmark_differences": dict(zip(names, of_benchmarks[name], strict=True)),
            "claim": claim(tested[name], margin=experiment.margin),
            "robustness": robustness(tested[name], names, chance=chance),
        }
    for (name, control), one in of_controls.items():
        found = Against(one.difference, claim(one, margin=experiment.margin))
        fields.setdefault(name, {}).setdefault("own_controls", {})[control] = found
    return fields


def _tested(
    experiment: Experiment,
    units: Mapping[str, _Units],
    suite: Suite,
    asked: Mapping[str, Asked],
    others: int = 0,
) -> tuple[dict[str, Tested], dict[tuple[str, str], Tested]]:
    """The difference of each arm to its baseline, by arm, and to each of its own controls, by both names."""
    arms = {name: own.in_points(suite) for name, own in units.items()}
    pairs = _pairs(experiment)
    anchors = {arm.name for arm in experiment.arms if arm.anchor}
    # An arm is in the family under one more name for each of its own controls.
    own = _own_controls(experiment, pairs)
    again = {f"{of} against {control}": (of, control) for control, of in own.items()}
    tested = differences(
        arms | {name: arms[of] for name, (of, _) in again.items()},
        pairs | {name: control for name, (_, control) in again.items()},
        [own.strata for own in asked.values()],
        anchors=anchors,
        others=others,
    )
    return {name: tested[name] for name in pairs}, {both: tested[name] for name, both in again.items()}


def _higher_is_better(units: _Units, suite: Suite) -> list[float]:
    """Mean score of each benchmark, negated when lower is better."""
    return [b.sign * value for b, value in zip(suite, units.benchmark_means(), strict=True)]


def _grounding(
    experiment: Experiment, runs: Sequence[int], asked: Mapping[str, Asked], suite: Suite
) -> dict[str, Any]:
    """The fields of an ArmResult about shuffled images; {} if no repetition was evaluated with them."""
    columns = np.concatenate([own.columns for own in asked.values()])
    both = [at for at in runs if not np.isnan(experiment.shuffled[at, columns]).all()]
    if not both:
        return {}
    real, shuffled = (
        _Units.of(experiment, both, asked, scores) for scores in (experiment.scores, experiment.shuffled)
    )
    lost = [
        [b.sign * (x - y) for b, x, y in zip(suite, *unit, strict=True)]
        for unit in zip(real.scores, shuffled.scores, strict=True)
    ]
    without, both_means = shuffled.means(suite), real.means(suite)
    gains = [x - y for x, y in zip(both_means, without, strict=True)]
    fields: dict[str, Any] = {}
    for name, units, of_units in (
        ("shuffled", shuffled, without),
        ("grounded", _Units(real.pools, lost), gains),
    ):
        means = zip(suite, units.benchmark_means(), strict=True)
        # A benchmark without shuffled scores is all NaN.
        values = {b.name: None if math.isnan(value) else value for b, value in means}
        average = Spread(mean(real.by_pool(of_units)), _spread(of_units).std)
        fields |= {name: values, f"{name}_mean": None if None in values.values() else average}
    return fields
