"""Scores, differences and claims with all questions and without those that samples of the pool repeat."""

from dataclasses import replace

from evaluation.comparison import ArmResult, Comparison
from evaluation.report.table import DASH, Cell, Column, Table, number_cell
from evaluation.report.tables.cells import claimed_cell, own_with_corrected, spread
from evaluation.report.tables.rows import Of, by_arm, names_of
from evaluation.suite import Benchmark


def leaks_table(comparison: Comparison) -> Table:
    """Arms: mean, /FULL, difference and claim with and without; no rows where no question is repeated."""
    other = comparison.without_leaks
    if other is None:
        return Table("leaks", _TITLE, (), ())
    columns = [
        *names_of(comparison),
        *_columns(comparison, "", ""),
        *_columns(other, ", without", "_without"),
    ]
    return by_arm("leaks", _TITLE, comparison, columns, _LEAKS)


def _columns(of: Comparison, also: str, end: str) -> list[Of]:
    """Mean, /FULL, difference and claim of each arm in one of the two comparisons."""
    ends = tuple(f"{name}{end}" for name in ("difference", "corrected_low", "corrected_high"))
    return [
        Of(Column(f"mean{also}", (f"mean{end}", f"std{end}")), lambda arm: spread(of.arm(arm.arm).mean)),
        Of(
            Column(f"/FULL{also}", (f"full{end}",)),
            lambda arm: number_cell(of.arm(arm.arm).relative, "{:.1f}".format),
        ),
        Of(Column(f"difference{also}", ends), lambda arm: own_with_corrected(of.arm(arm.arm).difference)),
        Of(Column(f"claim{also}", (f"verdict{end}",), left=True), lambda arm: claimed_cell(of.arm(arm.arm))),
    ]


_TITLE = "Results without the questions that the pool repeats"
_LEAKS = (
    "Without: scores over the questions that no sample of the pool repeats. A unit that holds a repeated "
    "question is left out whole, and the units which are left stand for all of their category. Questions are "
    "left out for all arms alike, whether an arm has selected the samples or not. Differences with their "
    "corrected interval."
)


def leaked_scores_table(comparison: Comparison) -> Table:
    """Arms x benchmarks with repeated questions: scores with all questions and without these; or no rows."""
    items = comparison.decontamination.get("items", {})
    hit = [b for b in comparison.suite if items.get(b.name)]

    def column(b: Benchmark) -> Of:
        return Of(
            Column(b.label, (b.name, f"{b.name}_without"), foreign=True),
            lambda arm: _pair(comparison, arm, b),
        )

    columns = [*names_of(comparison), *map(column, hit)]
    table = by_arm(
        "leaked_scores",
        "Scores with and without the questions that the pool repeats",
        comparison,
        columns,
        "In % of the scale, with all questions → without the repeated ones; of benchmarks that have some.",
    )
    return table if hit and comparison.without_leaks else replace(table, rows=())


def _pair(comparison: Comparison, arm: ArmResult, benchmark: Benchmark) -> Cell:
    """`51.2 → 50.4`, in % of the scale."""
    factor, score = 100 / benchmark.scale, arm.benchmarks[benchmark.name].mean
    other = comparison.without_leaks
    left = other.arm(arm.arm).benchmarks.get(benchmark.name) if other else None
    without = DASH if left is None else f"{factor * left.mean:.1f}"
    return Cell(
        f"{factor * score:.1f} → {without}", (factor * score, None if left is None else factor * left.mean)
    )
