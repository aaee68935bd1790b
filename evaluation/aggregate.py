"""From the evaluations of many checkpoints to one comparison of arms.

`collect(runs, suite)` -> long-form table of results; `compare(runs, suite)` -> per-arm means, /FULL, >Rand, differences
with intervals. Everything is a pure function of the files that `evaluation.harness.evaluate` wrote.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.results import ResultsError, Run, check_protocol, check_questions, collect, read_scores, read_summary
from evaluation.stats import Interval, mean, paired_bootstrap, std, welch
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

    `units` are independent repetitions: selection seeds where there are several, else training seeds; `unit_means`
    is the grand mean of each in %. `full` is /FULL in % (None without a full arm, or where a full score is 0),
    `full_range` its lowest and highest value when any one benchmark is left out. `above` of `len(benchmarks)`
    benchmarks lie above the baseline. `difference` is to the baseline's mean, in points of `mean`, with a 95 %
    interval; `p` is Welch's over units.
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


@dataclass(frozen=True)
class Comparison:
    """All arms in the order in which they were given, with chance and blind level (metric's scale) of each
    benchmark."""

    suite: Suite
    full_arm: str | None
    baseline: str | None
    arms: tuple[ArmResult, ...]
    chance: dict[str, float]
    blind: dict[str, float | None]
    n: dict[str, int]
    protocol: dict[str, Any]

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
    baseline: str | None = "random",
    bench_dir: Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare arms that answered the same questions under the same protocol; ResultsError where they did not.

    `full` and `baseline` name arms; one that is not among the runs leaves /FULL or the differences out.
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
    reference = {name: _benchmark_means(units[name]) if name in units else None for name in (full, baseline)}
    first = summaries[0]["benchmarks"]
    results = tuple(
        _arm_result(
            group,
            units[name],
            suite,
            reference[full],
            None if name == baseline else reference[baseline],
            units.get(baseline),
            _unparsed(group, suite),
            resamples,
            seed,
        )
        for name, group in arms.items()
    )
    return Comparison(
        suite=suite,
        full_arm=full if full in arms else None,
        baseline=baseline if baseline in arms else None,
        arms=results,
        chance={b.task: b.chance if b.chance is not None else first[b.task]["chance"] for b in suite},
        blind=_blind(bench_dir, suite),
        n={b.task: first[b.task]["n"] for b in suite},
        protocol=summaries[0]["protocol"],
    )


def _units(group: Sequence[Run], answers: Mapping[int, Mapping[str, pa.Table]]) -> list[list[np.ndarray]]:
    """Scores [unit][benchmark] of one arm: runs of one selection seed are averaged where there are several
    selection seeds."""
    if len({str(run.budget) for run in group}) > 1:
        raise ResultsError(
            f"arm {group[0].arm!r} has runs of several budgets: {sorted({str(run.budget) for run in group})}"
        )
    keys = [run.selection_seed for run in group]
    keys = keys if len(set(keys)) > 1 else [run.train_seed for run in group]
    if len(set(keys)) == 1 and len(keys) > 1:
        raise ResultsError(f"arm {group[0].arm!r} has {len(keys)} runs with the same seeds")
    members = {key: [answers[id(run)] for run, k in zip(group, keys) if k == key] for key in sorted(set(keys))}
    return [
        [np.mean([member[task]["score"].to_numpy() for member in unit], axis=0) for task in unit[0]]
        for unit in members.values()
    ]


def _benchmark_means(units: Sequence[Sequence[np.ndarray]]) -> list[float]:
    return [mean([unit[k].mean() for unit in units]) for k in range(len(units[0]))]


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), None if len(values) < 2 else std(values))


def _arm_result(
    group: Sequence[Run],
    units: list[list[np.ndarray]],
    suite: Suite,
    full: list[float] | None,
    base: list[float] | None,
    base_units: list[list[np.ndarray]] | None,
    unparsed: float,
    resamples: int,
    seed: int,
) -> ArmResult:
    scales = [b.scale for b in suite]
    signs = [1 if b.direction == "higher" else -1 for b in suite]
    means = _benchmark_means(units)
    unit_means = [100 * mean([unit[k].mean() / scales[k] for k in range(len(suite))]) for unit in units]
    unit_full = (
        [relative_to_full(*_oriented(_benchmark_means([unit]), full, signs)) for unit in units] if full else [None]
    )
    oriented = _oriented(means, full, signs) if full else None
    difference, p = None, None
    if base is not None and base_units is not None:
        found = paired_bootstrap(units, base_units, scale=scales, resamples=resamples, seed=seed)
        difference = Interval(100 * found.value, 100 * found.low, 100 * found.high)
        p = welch(
            unit_means, [100 * mean([unit[k].mean() / scales[k] for k in range(len(suite))]) for unit in base_units]
        ).p
    return ArmResult(
        arm=group[0].arm,
        budget=str(group[0].budget),
        runs=len(group),
        units=len(units),
        unit_means=tuple(unit_means),
        benchmarks={b.task: _spread([unit[k].mean() for unit in units]) for k, b in enumerate(suite)},
        mean=_spread(unit_means),
        unparsed=unparsed,
        full=relative_to_full(*oriented) if oriented else None,
        full_std=_spread(unit_full).std if None not in unit_full else None,
        full_range=leave_one_out(*oriented) if oriented else None,
        above=None
        if base is None
        else count_above(*([s * v for s, v in zip(signs, values)] for values in (means, base))),
        difference=difference,
        p=None if p is None or math.isnan(p) else p,
    )


def _oriented(scores: Sequence[float], full: Sequence[float], signs: Sequence[int]) -> tuple[list[float], list[float]]:
    """(numerators, denominators) of the /FULL ratios; turned round where lower is better."""
    pairs = [(s, f) if sign > 0 else (f, s) for s, f, sign in zip(scores, full, signs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _unparsed(group: Sequence[Run], suite: Suite) -> float:
    """Share of all answers of an arm that could not be parsed."""
    entries = [read_summary(run.path)["benchmarks"][b.task] for run in group for b in suite]
    return sum(entry["unparsed"] for entry in entries) / sum(entry["n"] for entry in entries)


def _blind(bench_dir: Path | None, suite: Suite) -> dict[str, float | None]:
    """Value of the best guess without the image, from bench.json; None where it was not measured."""
    path = Path(bench_dir) / "bench.json" if bench_dir else None
    content = json.loads(path.read_text()) if path and path.is_file() else {}
    return {b.task: content.get(b.capability, {}).get("blind") for b in suite}
