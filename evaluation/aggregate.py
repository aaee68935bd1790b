"""From the evaluations of many checkpoints to one comparison of arms.

    compare(runs, suite)      # means of each arm, /FULL, >Rand, differences with intervals
    collect(runs, suite)      # all results as a long-form table

Everything is a pure function of the files that `evaluation.harness.evaluate` wrote.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluation.comparison import ArmResult, Comparison, Spread
from evaluation.results import (
    Leaked,
    ResultsError,
    Run,
    check_protocol,
    check_questions,
    collect,
    read_scores,
    read_summary,
)
from evaluation.statistics.basic import Interval, PairedBootstrap, mean, std, unit_weights, welch
from evaluation.suite import Benchmark, Suite

__all__ = [
    "ArmResult",
    "Comparison",
    "ResultsError",
    "Run",
    "Spread",
    "collect",
    "compare",
    "count_above",
    "leave_one_out",
    "relative_to_reference",
]


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


def compare(
    runs: Sequence[Run],
    suite: Suite,
    *,
    reference: str | None = "full",
    baseline: str | Mapping[str, str] | None = "random",
    bench_dir: Path | None = None,
    leaked: Leaked | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare arms that answered the same questions under the same protocol; ResultsError otherwise.

    `reference` (the arm trained on the full data) and `baseline` name arms; without such an arm among the
    runs there is no /FULL, or no differences. A mapping {budget: arm} names the baseline of each budget.
    `bench_dir` has the blind level of each benchmark (bench.json). `leaked`: these questions are left out
    with their units, and a benchmark without any other is left out of every mean; what is said of how answers
    were read is of all answers.
    """
    if not runs:
        raise ResultsError("no runs to compare")
    arms = {name: [run for run in runs if run.arm == name] for name in dict.fromkeys(run.arm for run in runs)}
    summaries = [read_summary(run.path) for run in runs]
    check_protocol(runs, summaries)
    suite = suite.judged(summaries[0]["protocol"].get("not_judged", ()))
    answers = {id(run): read_scores(run, suite, leaked) for run in runs}
    check_questions(runs, answers)
    if empty := [b.name for b in suite if not len(answers[id(runs[0])][b.name])]:
        suite = suite.judged(empty)
        answers = {key: {b.name: own[b.name] for b in suite} for key, own in answers.items()}
        if not len(suite):
            raise ResultsError("no question is left: samples of the pool repeat all of them")
    units = {name: _units(group, answers) for name, group in arms.items()}
    pools = _check_pools(units)
    reference_means = units[reference].benchmark_means() if reference in units else None
    first, asked = summaries[0]["benchmarks"], answers[id(runs[0])]
    bases = _Baseline.of_arms(arms, baseline, units, suite, resamples, seed)
    results = tuple(
        _arm_result(
            group,
            units[name],
            suite,
            reference_means,
            bases.get(name),
            _unparsed(group, suite),
            _grounding(group, answers, suite),
        )
        for name, group in arms.items()
    )
    return Comparison(
        suite=suite,
        reference_arm=reference if reference in arms else None,
        baseline=dict(baseline) if isinstance(baseline, Mapping) else baseline if baseline in arms else None,
        arms=results,
        chance={b.name: b.chance if b.chance is not None else first[b.name]["chance"] for b in suite},
        blind=_blind(bench_dir, suite),
        n={b.name: pc.sum(asked[b.name]["questions"]).as_py() for b in suite},
        protocol=summaries[0]["protocol"],
        pools=pools,
        units={b.name: len(asked[b.name]) for b in suite},
        reading={b.name: _reading([summary["benchmarks"][b.name] for summary in summaries]) for b in suite},
    )


def _reading(entries: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """How the answers of all runs to one benchmark were read, see `Comparison.reading`."""
    n = sum(entry["n"] for entry in entries)
    gaps = [entry["lenient"] - entry["value"] for entry in entries if entry["lenient"] is not None]
    return {
        "unparsed": sum(entry["unparsed"] for entry in entries) / n,
        "truncated": sum(entry["truncated"] for entry in entries) / n,
        "lenient": mean(gaps) if len(gaps) == len(entries) else None,
    }


@dataclass(frozen=True)
class _Units:
    """The repetitions of an arm: scores [repetition][benchmark] -> float64[units of the benchmark], the pool
    seed of each repetition, and the category of each unit of each benchmark.
    """

    arm: str
    pools: list[int | None]
    scores: list[list[np.ndarray]]
    strata: list[list[str]]

    def benchmark_means(self) -> list[float]:
        """Mean score of each benchmark; every pool has the same weight."""
        weights = unit_weights(self.pools)
        return [
            float(np.average([unit[k].mean() for unit in self.scores], weights=weights))
            for k in range(len(self.scores[0]))
        ]

    def means(self, scales: Sequence[float]) -> list[float]:
        """Mean over benchmarks of each unit, in %."""
        return [
            100 * mean([scores.mean() / scale for scores, scale in zip(unit, scales, strict=True)])
            for unit in self.scores
        ]

    def pool_means(self, scales: Sequence[float]) -> list[float]:
        """Mean over benchmarks of each pool, in %, in the order of the pools."""
        values = list(zip(self.pools, self.means(scales), strict=True))
        return [mean([value for own, value in values if own == pool]) for pool in dict.fromkeys(self.pools)]


def _units(
    group: Sequence[Run], answers: Mapping[int, Mapping[str, pa.Table]], column: str = "score"
) -> _Units:
    """The units of one arm by pool seed.

    With several selection seeds, the training seeds of one selection are averaged: they are not independent
    selections.
    """
    if len({str(run.budget) for run in group}) > 1:
        raise ResultsError(
            f"arm {group[0].arm!r} has runs of several budgets: {sorted({str(run.budget) for run in group})}"
        )
    by_selection = len({run.selection_seed for run in group}) > 1
    members: dict[tuple[int | None, int], list[Run]] = {}
    for run in group:
        members.setdefault(
            (run.pool_seed, run.selection_seed if by_selection else run.train_seed), []
        ).append(run)
    for (pool, _), unit in members.items():
        if len({run.train_seed for run in unit}) < len(unit):
            where = "" if pool is None else f" on pool {pool}"
            raise ResultsError(f"arm {group[0].arm!r} has {len(unit)} runs with the same seeds{where}")
    keys = sorted(members, key=lambda key: (key[0] or 0, key[1]))
    scores = [
        [
            np.mean([answers[id(run)][task][column].to_numpy() for run in members[key]], axis=0)
            for task in answers[id(group[0])]
        ]
        for key in keys
    ]
    strata = [part["stratum"].to_pylist() for part in answers[id(group[0])].values()]
    return _Units(group[0].arm, [pool for pool, _ in keys], scores, strata)


def _check_pools(units: Mapping[str, _Units]) -> tuple[int | None, ...]:
    """The pools of all arms; ResultsError if they differ: differences would then include the pools' own."""
    first = next(iter(units.values()))
    for other in units.values():
        if set(other.pools) != set(first.pools):
            raise ResultsError(
                f"arms {first.arm!r} and {other.arm!r} were run on different pools: "
                f"{sorted(set(first.pools), key=str)} and {sorted(set(other.pools), key=str)}"
            )
    return tuple(dict.fromkeys(first.pools))


@dataclass(frozen=True)
class _Baseline:
    """What an arm is compared with, and the questions drawn for the intervals of all differences: over all
    benchmarks (`whole`), and of each alone.
    """

    units: _Units
    whole: PairedBootstrap
    alone: tuple[PairedBootstrap, ...]

    @classmethod
    def of_arms(
        cls,
        arms: Mapping[str, Sequence[Run]],
        baseline: str | Mapping[str, str] | None,
        units: Mapping[str, _Units],
        suite: Suite,
        resamples: int,
        seed: int,
    ) -> "dict[str, _Baseline]":
        """The one baseline, or that of the arm's budget, of each arm that has one; none is its own."""
        pairs: dict[str, str] = {}
        for arm, group in arms.items():
            name = baseline.get(str(group[0].budget)) if isinstance(baseline, Mapping) else baseline
            if name is not None and name != arm and name in units:
                pairs[arm] = name
        if not pairs:
            return {}
        # In the order of their names: the last digits of a product may depend on the order of its rows.
        drawn = [units[name] for name in sorted({*pairs, *pairs.values()})]
        settings: dict[str, Any] = {
            "pools": {arm.arm: arm.pools for arm in drawn},
            "resamples": resamples,
            "seed": seed,
        }
        scales, strata = [b.scale for b in suite], drawn[0].strata
        alone = tuple(
            PairedBootstrap.of(
                {arm.arm: [[unit[k]] for unit in arm.scores] for arm in drawn},
                scale=[scales[k]],
                strata=[strata[k]],
                **settings,
            )
            for k in range(len(suite))
        )
        whole = PairedBootstrap.of(
            {arm.arm: arm.scores for arm in drawn}, scale=scales, strata=strata, first=alone[0], **settings
        )
        return {arm: cls(units[base], whole, alone) for arm, base in pairs.items()}

    def difference(self, arm: str, drawn: PairedBootstrap) -> Interval:
        """Mean of the arm minus the baseline's, in % of the scales."""
        interval = drawn.difference(arm, self.units.arm)
        return Interval(100 * interval.value, 100 * interval.low, 100 * interval.high)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), None if len(values) < 2 else std(values))


def _arm_result(
    group: Sequence[Run],
    units: _Units,
    suite: Suite,
    reference: list[float] | None,
    base: _Baseline | None,
    unparsed: float,
    grounding: Mapping[str, Any],
) -> ArmResult:
    scales = [b.scale for b in suite]
    unit_means, pool_means = units.means(scales), units.pool_means(scales)
    return ArmResult(
        arm=group[0].arm,
        budget=str(group[0].budget),
        targeted=group[0].targeted,
        runs=len(group),
        units=len(unit_means),
        unit_means=tuple(unit_means),
        benchmarks={
            b.name: Spread(value, _spread([unit[k].mean() for unit in units.scores]).std)
            for k, (b, value) in enumerate(zip(suite, units.benchmark_means(), strict=True))
        },
        mean=Spread(mean(pool_means), _spread(unit_means).std),
        unparsed=unparsed,
        pool_means=tuple(pool_means),
        **_relative(units, suite, reference),
        **_differences(units, suite, base),
        **grounding,
    )


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


def _differences(units: _Units, suite: Suite, base: _Baseline | None) -> dict[str, Any]:
    """The fields of an ArmResult about its baseline."""
    if base is None:
        return dict.fromkeys(("above", "difference", "p"))
    scales = [b.scale for b in suite]
    above = count_above(_higher_is_better(units, suite), _higher_is_better(base.units, suite))
    pool_means, base_means = units.pool_means(scales), base.units.pool_means(scales)
    # Seeds of one pool share its samples: units of several pools are not independent, as a t-test needs.
    p = welch(units.means(scales), base.units.means(scales)).p if len(pool_means) == 1 else math.nan
    return {
        "above": above,
        "difference": base.difference(units.arm, base.whole),
        "p": None if math.isnan(p) else p,
        "baseline": base.units.arm,
        "pool_differences": tuple(x - y for x, y in zip(pool_means, base_means, strict=True)),
        "benchmark_differences": {
            b.name: base.difference(units.arm, drawn) for b, drawn in zip(suite, base.alone, strict=True)
        },
    }


def _higher_is_better(units: _Units, suite: Suite) -> list[float]:
    """Mean score of each benchmark, negated when lower is better."""
    return [_sign(b) * value for b, value in zip(suite, units.benchmark_means(), strict=True)]


def _sign(benchmark: Benchmark) -> int:
    return 1 if benchmark.direction == "higher" else -1


def _grounding(
    group: Sequence[Run], answers: Mapping[int, Mapping[str, pa.Table]], suite: Suite
) -> dict[str, Any]:
    """The fields of an ArmResult about shuffled images; {} if no repetition was evaluated with them."""
    both = [
        run
        for run in group
        if any(not part["score_shuffled"].null_count for part in answers[id(run)].values())
    ]
    if not both:
        return {}
    real, shuffled = (_units(both, answers, column) for column in ("score", "score_shuffled"))
    lost = [
        [_sign(b) * (x - y) for b, x, y in zip(suite, *unit, strict=True)]
        for unit in zip(real.scores, shuffled.scores, strict=True)
    ]
    fields: dict[str, Any] = {}
    for name, units in (
        ("shuffled", shuffled),
        ("grounded", _Units(real.arm, real.pools, lost, real.strata)),
    ):
        means = zip(suite, units.benchmark_means(), strict=True)
        # A benchmark without shuffled scores is all null, which is NaN here.
        values = {b.name: None if math.isnan(value) else value for b, value in means}
        scales = [b.scale for b in suite]
        average = Spread(mean(units.pool_means(scales)), _spread(units.means(scales)).std)
        fields |= {name: values, f"{name}_mean": None if None in values.values() else average}
    return fields


def _unparsed(group: Sequence[Run], suite: Suite) -> float:
    """Share of all answers of an arm that could not be parsed."""
    entries = [read_summary(run.path)["benchmarks"][b.name] for run in group for b in suite]
    return sum(entry["unparsed"] for entry in entries) / sum(entry["n"] for entry in entries)


def _blind(bench_dir: Path | None, suite: Suite) -> dict[str, float | None]:
    """Score of the best guess without the image, from bench.json; None if it was not measured."""
    path = Path(bench_dir) / "bench.json" if bench_dir else None
    content = json.loads(path.read_text()) if path and path.is_file() else {}
    return {b.name: content.get(b.capability, {}).get("blind") for b in suite}
