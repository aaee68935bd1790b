"""The first table: means, differences with their corrected intervals, claims."""

from evaluation.comparison import ArmResult, Comparison, Spread
from evaluation.report.marks import marks
from evaluation.report.table import DASH, Cell, Column, Table, Value, number_cell
from evaluation.report.tables.cells import corrected_cell, own_cell, spread, spread_text, tested
from evaluation.report.tables.rows import Of, by_arm, names_of
from evaluation.report.words import p_value, verdict


def results_table(comparison: Comparison) -> Table:
    """Means, differences with the interval that holds for the whole family, verdicts, >Rand and /FULL."""
    marked = marks(comparison)
    columns = [
        *names_of(comparison),
        Of(Column("mean", ("mean", "std")), lambda arm: spread(arm.mean, mark=marked.get(arm.arm, ""))),
        *_difference_columns(comparison),
        Of(
            Column("claim", ("verdict", "margin", "scope", "family", "reason"), left=True),
            _claim_cell,
        ),
        Of(Column("p, corrected", ("p_corrected", "p")), _p_cell),
        Of(Column("df", ("df",)), lambda arm: number_cell(tested(arm, "df"), "{:.1f}".format)),
        Of(
            Column(">Rand (by chance)", ("above", "benchmarks", "above_null_low", "above_null_high")),
            lambda arm: _above(arm, len(comparison.suite)),
        ),
        Of(Column("/FULL", ("full", "full_std", "full_low", "full_high")), _relative),
        Of(
            Column("unparsed", ("unparsed",)),
            lambda arm: number_cell(arm.unparsed, lambda share: f"{100 * share:.1f} %"),
        ),
    ]
    return by_arm("results", "Results", comparison, columns, _RESULTS)


_RESULTS = (
    "Mean: over benchmarks, in % of each scale, ± standard deviation over repetitions. Difference: to the "
    "baseline, in points. Corrected: the 95 % interval and p that hold for all differences of the family at "
    "once; the claim follows from them alone. >Rand: benchmarks above the baseline's mean, beside the 95 % "
    "range that it has where there is no difference. /FULL: mean over benchmarks of score / full-data score "
    "(mmSSR, arXiv 2503.13383). Bold: the highest mean of its budget, if its arm beats the baseline; the "
    "second mark likewise. Without such a claim nothing is marked."
)


def _difference_columns(comparison: Comparison) -> list[Of]:
    named = comparison.baselines[0] if len(comparison.baselines) == 1 else "the baseline of its budget"
    title = f"difference to {named}" if comparison.baselines else "difference"
    names = ("difference", "low", "high", "stderr")
    return [
        Of(Column(title, names, foreign=True), own_cell),
        Of(
            Column("corrected 95 % interval", ("corrected_low", "corrected_high")),
            lambda arm: corrected_cell(arm.difference),
        ),
    ]


def _p_cell(arm: ArmResult) -> Cell:
    d = arm.difference
    return Cell(p_value(d.corrected_p), (d.corrected_p, d.p)) if d else Cell(DASH, (None, None))


def _claim_cell(arm: ArmResult) -> Cell:
    c = arm.claim
    values: tuple[Value, ...] = (c.verdict, c.margin, c.scope, c.family, c.reason) if c else (None,) * 5
    return Cell(DASH if arm.anchor else verdict(c), values)


def _above(arm: ArmResult, benchmarks: int) -> Cell:
    low, high = (arm.robustness and arm.robustness.above_null) or (None, None)
    if arm.above is None:
        return Cell(DASH, (None, benchmarks, None, None))
    by_chance = "" if low is None else f" ({low} to {high})"
    return Cell(f"{arm.above}/{benchmarks}{by_chance}", (arm.above, benchmarks, low, high))


def _relative(arm: ArmResult) -> Cell:
    low, high = arm.relative_range or (None, None)
    values = (arm.relative, arm.relative_std, low, high)
    return Cell(DASH if arm.relative is None else spread_text(Spread(arm.relative, arm.relative_std)), values)
