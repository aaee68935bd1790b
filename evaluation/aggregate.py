"""From the evaluations of many checkpoints to one comparison of arms.

`collect(runs, suite)` -> long-form table of results; `compare(runs, suite)` -> per-arm means, /FULL, >Rand, differences
with intervals. Everything is a pure function of the files that `evaluation.harness.evaluate` wrote.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.results import (
    ResultsError,
    Run,
    check_protocol,
    check_questions,
    collect,
    read_scores,
    read_summary,
)
from evaluation.stats import Interval, mean, paired_bootstrap, std, unit_weights, welch
from evaluation.suite import Suite

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
    "relative_to_full",
]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the units (seeds) of an arm; std is None for one unit."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class ArmResult:
    """One row of the comparison. Values of `benchmarks` are in the metric's own scale, `mean` is in % of the scales.

    `units` are the repetitions: on each pool the selection seeds where there are several, else the training seeds;
    `unit_means` is the grand mean of each in %, by pool, and `pool_means` that of each pool. `full` is /FULL in % (None without a full arm, or where a full score is 0),
    `full_range` its lowest and highest value when any one benchmark is left out. `above` of `len(benchmarks)`
    benchmarks lie above the baseline. `difference` is to the mean of the arm `baseline`, in points of `mean`, with a
    95 % interval; `benchmark_differences` are those of the single benchmarks, `pool_differences` those of the single
    pools. `p` is Welch's over units (None for several pools, whose units are not independent).

    `shuffled` is the score of each benchmark with the images of other questions, in the metric's own scale, over the
    repetitions that were asked so; `grounded` is what these lose by it (score - shuffled, turned round where lower is
    better). A benchmark is None where no question could be given another's image, all is None where no repetition was
    asked. The means are in % of the scales, and None unless all benchmarks have a value.

    `targeted`: the arm's selector saw validation data of what it is judged on.
    """

    arm: str
    budget: str
    runs: int
    units: int
    unit_means: tuple[float, ...]
    benchmarks: dict[str, Spread]
    mean: Spread
    unparsed: float
    full: float | None
    full_std: float | None
    full_range: tuple[float, float] | None
    above: int | None
    difference: Interval | None
    p: float | None
    pool_means: tuple[float, ...] = ()
    baseline: str | None = None
    pool_differences: tuple[float, ...] = ()
    benchmark_differences: dict[str, Interval] = field(default_factory=dict)
    shuffled: dict[str, float | None] | None = None
    grounded: dict[str, float | None] | None = None
    shuffled_mean: Spread | None = None
    grounded_mean: Spread | None = None
    targeted: bool = False


@dataclass(frozen=True)
class Comparison:
    """All arms in the order in which they were given, with chance and blind level (metric's scale) of each
    benchmark.

    `baseline` is one arm, or the arm for each budget; `pools` are the pool seeds that every arm was run on.
    """

    suite: Suite
    full_arm: str | None
    baseline: str | dict[str, str] | None
    arms: tuple[ArmResult, ...]
    chance: dict[str, float]
    blind: dict[str, float | None]
    n: dict[str, int]
    protocol: dict[str, Any]
    pools: tuple[int | None, ...] = (None,)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The arms that others are compared with."""
        return tuple(dict.fromkeys(arm.baseline for arm in self.arms if arm.baseline))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return asdict(self)

    def arm(self, name: str) -> ArmResult:
        return next(arm for arm in self.arms if arm.arm == name)


def relative_to_full(scores: Sequence[float], full: Sequence[float]) -> float | None:
    """/FULL of mmSSR (arXiv 2503.13383, table 1): 100 * mean over benchmarks of score / full score; None if a full
    score is 0."""
    if len(scores) != len(full):
        raise ValueError(f"{len(scores)} scores against {len(full)} full scores")
    if any(value == 0 for value in full):
        return None
    return 100 * mean([score / value for score, value in zip(scores, full)])


def leave_one_out(scores: Sequence[float], full: Sequence[float]) -> tuple[float, float] | None:
    """Lowest and highest /FULL when any one benchmark is left out; None as in `relative_to_full` or for one
    benchmark."""
    if len(scores) < 2 or any(value == 0 for value in full):
        return None
    ratios = 100 * np.asarray(scores, dtype=np.float64) / np.asarray(full, dtype=np.float64)
    without = (ratios.sum() - ratios) / (len(ratios) - 1)
    return float(without.min()), float(without.max())


def count_above(scores: Sequence[float], baseline: Sequence[float]) -> int:
    """>Rand of mmSSR: the number of benchmarks with a score strictly above the baseline's."""
    return sum(score > base for score, base in zip(scores, baseline, strict=True))


def compare(
    runs: Sequence[Run],
    suite: Suite,
    *,
    full: str | None = "full",
    baseline: str | Mapping[str, str] | None = "random",
    bench_dir: Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare arms that answered the same questions under the same protocol; ResultsError where they did not.

    `full` and `baseline` name arms; one that is not among the runs leaves /FULL or the differences out. A mapping
    names the baseline for the arms of each budget.
    `bench_dir` gives the blind level of each benchmark (bench.json).
    """
    if not runs:
        raise ResultsError("there are no runs to compare")
    arms = {name: [run for run in runs if run.arm == name] for name in dict.fromkeys(run.arm for run in runs)}
    summaries = [read_summary(run.path) for run in runs]
    check_protocol(runs, summaries)
    answers = {id(run): read_scores(run, suite) for run in runs}
    check_questions(runs, answers)
    units = {name: _units(group, answers) for name, group in arms.items()}
    pools = _check_pools(units)
    full_means = units[full].benchmark_means() if full in units else None
    first = summaries[0]["benchmarks"]
    results = tuple(
        _arm_result(
            group,
            units[name],
            suite,
            full_means,
            _baseline(group[0], baseline, units),
            _unparsed(group, suite),
            _grounding(group, answers, suite),
            resamples,
            seed,
        )
        for name, group in arms.items()
    )
    return Comparison(
        suite=suite,
        full_arm=full if full in arms else None,
        baseline=dict(baseline) if isinstance(baseline, Mapping) else baseline if baseline in arms else None,
        arms=results,
        chance={b.task: b.chance if b.chance is not None else first[b.task]["chance"] for b in suite},
        blind=_blind(bench_dir, suite),
        n={b.task: first[b.task]["n"] for b in suite},
        protocol=summaries[0]["protocol"],
        pools=pools,
    )


@dataclass(frozen=True)
class _Units:
    """Scores [unit][benchmark] -> float64[questions] of one arm, and the pool seed of each unit."""

    arm: str
    pools: list[int | None]
    scores: list[list[np.ndarray]]

    def benchmark_means(self) -> list[float]:
        """Mean score of each benchmark; every pool counts the same."""
        weights = unit_weights(self.pools)
        return [
            float(np.average([unit[k].mean() for unit in self.scores], weights=weights))
            for k in range(len(self.scores[0]))
        ]

    def means(self, scales: Sequence[float]) -> list[float]:
        """Grand mean of each unit in %."""
        return [
            100 * mean([scores.mean() / scale for scores, scale in zip(unit, scales)]) for unit in self.scores
        ]

    def pool_means(self, scales: Sequence[float]) -> list[float]:
        """Grand mean of each pool in %, in the order of the pools."""
        values = list(zip(self.pools, self.means(scales)))
        return [mean([value for own, value in values if own == pool]) for pool in dict.fromkeys(self.pools)]


def _units(
    group: Sequence[Run], answers: Mapping[int, Mapping[str, pa.Table]], column: str = "score"
) -> _Units:
    """The units of one arm by pool seed: runs of one selection seed are averaged where there are several selection
    seeds."""
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
    return _Units(group[0].arm, [pool for pool, _ in keys], scores)


def _check_pools(units: Mapping[str, _Units]) -> tuple[int | None, ...]:
    """The pools that all arms were run on; ResultsError if they differ, since a difference would hold the pools' own."""
    first = next(iter(units.values()))
    for other in units.values():
        if set(other.pools) != set(first.pools):
            raise ResultsError(
                f"arms {first.arm!r} and {other.arm!r} were run on different pools: {sorted(set(first.pools), key=str)} "
                f"and {sorted(set(other.pools), key=str)}"
            )
    return tuple(dict.fromkeys(first.pools))


def _baseline(
    run: Run, baseline: str | Mapping[str, str] | None, units: Mapping[str, _Units]
) -> _Units | None:
    """What an arm is compared with: the one baseline, or that of its budget; None for a baseline itself."""
    name = baseline.get(str(run.budget)) if isinstance(baseline, Mapping) else baseline
    return None if name == run.arm else units.get(name)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), None if len(values) < 2 else std(values))


def _arm_result(
    group: Sequence[Run],
    units: _Units,
    suite: Suite,
    full: list[float] | None,
    base: _Units | None,
    unparsed: float,
    grounding: Mapping[str, Any],
    resamples: int,
    seed: int,
) -> ArmResult:
    scales = [b.scale for b in suite]
    signs = [1 if b.direction == "higher" else -1 for b in suite]
    means, unit_means, pool_means = units.benchmark_means(), units.means(scales), units.pool_means(scales)
    unit_full = [
        relative_to_full(*_oriented([scores.mean() for scores in unit], full, signs)) if full else None
        for unit in units.scores
    ]
    oriented = _oriented(means, full, signs) if full else None
    several = len(pool_means) > 1
    p = welch(unit_means, base.means(scales)).p if base and not several else math.nan
    return ArmResult(
        arm=group[0].arm,
        budget=str(group[0].budget),
        targeted=group[0].targeted,
        runs=len(group),
        units=len(unit_means),
        unit_means=tuple(unit_means),
        benchmarks={
            b.task: Spread(means[k], _spread([unit[k].mean() for unit in units.scores]).std)
            for k, b in enumerate(suite)
        },
        mean=Spread(mean(pool_means), _spread(unit_means).std),
        unparsed=unparsed,
        full=relative_to_full(*oriented) if oriented else None,
        full_std=_spread(unit_full).std if None not in unit_full else None,
        full_range=leave_one_out(*oriented) if oriented else None,
        above=count_above(
            *([s * v for s, v in zip(signs, values)] for values in (means, base.benchmark_means()))
        )
        if base
        else None,
        difference=_difference(units, base, range(len(suite)), scales, resamples, seed) if base else None,
        p=None if math.isnan(p) else p,
        pool_means=tuple(pool_means),
        baseline=base.arm if base else None,
        pool_differences=tuple(x - y for x, y in zip(pool_means, base.pool_means(scales))) if base else (),
        benchmark_differences={
            b.task: _difference(units, base, [k], scales, resamples, seed) for k, b in enumerate(suite)
        }
        if base
        else {},
        **grounding,
    )


def _difference(
    units: _Units, base: _Units, benchmarks: Sequence[int], scales: Sequence[float], resamples: int, seed: int
) -> Interval:
    """Mean over these benchmarks minus the baseline's, in % of the scales."""
    sides = [[[unit[k] for k in benchmarks] for unit in side.scores] for side in (units, base)]
    found = paired_bootstrap(
        *sides,
        pools=(units.pools, base.pools),
        scale=[scales[k] for k in benchmarks],
        resamples=resamples,
        seed=seed,
    )
    return Interval(100 * found.value, 100 * found.low, 100 * found.high)


def _oriented(
    scores: Sequence[float], full: Sequence[float], signs: Sequence[int]
) -> tuple[list[float], list[float]]:
    """(numerators, denominators) of the /FULL ratios; turned round where lower is better."""
    pairs = [(s, f) if sign > 0 else (f, s) for s, f, sign in zip(scores, full, signs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _grounding(
    group: Sequence[Run], answers: Mapping[int, Mapping[str, pa.Table]], suite: Suite
) -> dict[str, Any]:
    """The fields of an ArmResult that come from shuffled images; none where no repetition was asked with them."""
    both = [
        run
        for run in group
        if any(not part["score_shuffled"].null_count for part in answers[id(run)].values())
    ]
    if not both:
        return {}
    real, other = (_units(both, answers, column) for column in ("score", "score_shuffled"))
    signs = [1 if b.direction == "higher" else -1 for b in suite]
    gains = [[s * (x - y) for s, x, y in zip(signs, *unit)] for unit in zip(real.scores, other.scores)]
    gained = _Units(real.arm, real.pools, gains)
    found: dict[str, Any] = {}
    for name, units in (("shuffled", other), ("grounded", gained)):
        values = {b.task: None if math.isnan(v) else v for b, v in zip(suite, units.benchmark_means())}
        scales = [b.scale for b in suite]
        average = Spread(mean(units.pool_means(scales)), _spread(units.means(scales)).std)
        found |= {name: values, f"{name}_mean": None if None in values.values() else average}
    return found


def _unparsed(group: Sequence[Run], suite: Suite) -> float:
    """Share of all answers of an arm that could not be parsed."""
    entries = [read_summary(run.path)["benchmarks"][b.task] for run in group for b in suite]
    return sum(entry["unparsed"] for entry in entries) / sum(entry["n"] for entry in entries)


def _blind(bench_dir: Path | None, suite: Suite) -> dict[str, float | None]:
    """Value of the best guess without the image, from bench.json; None where it was not measured."""
    path = Path(bench_dir) / "bench.json" if bench_dir else None
    content = json.loads(path.read_text()) if path and path.is_file() else {}
    return {b.task: content.get(b.capability, {}).get("blind") for b in suite}
