"""What a comparison says of leaks: samples of the pool that repeat questions or images of the benchmarks.

`Comparison.decontamination` holds

    state        drop: such samples were taken out of the pool; flag: they are in it; off: nobody looked
    suite, data  hashes of the suite and of its questions that the pool was compared with
    rows, of     samples that repeat a question, and samples of the pool, summed over the pools
    items        {benchmark: questions that are repeated}, of all pools together
    kinds        {kind of likeness: rows}; sources: {source: rows}
"""

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.comparison import ArmResult, Comparison
from evaluation.report.tables import DASH, difference_cell, markdown, spread_cell
from evaluation.suite import Benchmark


def stamp(found: Mapping[str, Any]) -> str:
    """One sentence on the state of the decontamination; empty for a comparison that does not say."""
    state = found.get("state")
    if state is None:
        return ""
    if state == "off":
        return (
            "**decontamination: off**: nobody has looked whether samples of the pool repeat questions of the "
            "benchmarks."
        )
    count = sum(found["items"].values())
    if not found["rows"]:
        return f"**decontamination: {state}**: no sample of the pool repeats a question of the benchmarks."
    share = f"{found['rows']:,} of {found['of']:,} samples ({100 * found['rows'] / found['of']:.2f} %)"
    if state == "drop":
        return (
            f"**decontamination: drop**: {share} repeated {count:,} questions of the benchmarks and were "
            "taken out of the pool before anything was selected."
        )
    return (
        f"**decontamination: flag**: {share} of the pool repeat {count:,} questions of the benchmarks; "
        "scores without these questions are below, under leaks."
    )


def leak_section(comparison: Comparison) -> str:
    """Scores with and without the repeated questions; empty where none is known to be repeated."""
    other = comparison.without_leaks
    if other is None:
        return ""
    return "\n\n".join(
        part for part in (_means(comparison, other), _LEGEND, *_by_benchmark(comparison)) if part
    )


_LEGEND = (
    "Without: scores over the questions that no sample of the pool repeats. A unit that holds a repeated "
    "question is left out whole, and the units which are left stand for all of their category. Questions are "
    "left out for all arms alike, whether an arm has selected the samples or not."
)


def _means(comparison: Comparison, other: Comparison) -> str:
    """Arms: mean, /FULL and difference with all questions and without the repeated ones."""
    header = ["arm", "budget"]
    header += [
        f"{name}{also}" for name in ("mean", "/FULL", "difference [95 %]") for also in ("", ", without")
    ]
    rows = []
    for arm in comparison.arms:
        pair = (arm, other.arm(arm.arm))
        cells = [spread_cell(one.mean) for one in pair] + [_relative(one) for one in pair]
        rows.append([arm.arm, arm.budget, *cells, *(difference_cell(one.difference) for one in pair)])
    return markdown(header, rows)


def _relative(arm: ArmResult) -> str:
    return DASH if arm.relative is None else f"{arm.relative:.1f}"


def _by_benchmark(comparison: Comparison) -> Iterator[str]:
    """How many questions of each benchmark are repeated, and the scores of each arm with and without them."""
    items = comparison.decontamination["items"]
    header = ["benchmark", "questions", "repeated", *(arm.arm for arm in comparison.arms)]
    rows = []
    for benchmark in comparison.suite:
        if items.get(benchmark.name):
            asked = f"{comparison.n[benchmark.name]:,}"
            cells = [_pair(comparison, arm, benchmark) for arm in comparison.arms]
            rows.append([benchmark.label, asked, f"{items[benchmark.name]:,}", *cells])
    if rows:
        yield markdown(header, rows)
    left = (
        {benchmark.name for benchmark in comparison.without_leaks.suite} if comparison.without_leaks else ()
    )
    if gone := [benchmark.label for benchmark in comparison.suite if benchmark.name not in left]:
        yield f"{', '.join(gone)}: all questions are repeated; left out of the means without."


def _pair(comparison: Comparison, arm: ArmResult, benchmark: Benchmark) -> str:
    """`51.2 → 50.4`, in % of the scale."""
    other, factor = comparison.without_leaks, 100 / benchmark.scale
    left = other.arm(arm.arm).benchmarks.get(benchmark.name) if other else None
    without = DASH if left is None else f"{factor * left.mean:.1f}"
    return f"{factor * arm.benchmarks[benchmark.name].mean:.1f} → {without}"
