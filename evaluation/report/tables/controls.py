"""Arms against the controls that are theirs alone: matched, token-matched and compute-matched random."""

from evaluation.comparison import Against, ArmResult, Comparison
from evaluation.report.table import Cell, Column, Row, Table, number_cell, text_cell
from evaluation.report.tables.cells import corrected_cell, spread
from evaluation.report.tables.rows import ARM, BUDGET, arm_cell, grouped, kind_of
from evaluation.report.words import p_value, points, verdict

_COLUMNS = (
    ARM,
    BUDGET,
    Column("its own control", ("own_control",), left=True, foreign=True),
    Column("kind", ("kind",), left=True, foreign=True),
    Column("mean", ("mean", "mean_std")),
    Column("control's mean", ("control_mean", "control_std")),
    Column("difference", ("difference", "low", "high", "stderr")),
    Column("corrected 95 % interval", ("corrected_low", "corrected_high")),
    Column("claim", ("verdict", "scope", "family", "reason"), left=True),
    Column("p, corrected", ("p_corrected", "p")),
)


def controls_table(comparison: Comparison) -> Table:
    """A row for each arm and each of its own controls; no rows where no arm has one."""
    rows = [
        Row(_cells(arm, comparison.arm(name), against), group)
        for group, arms in grouped(comparison).items()
        for arm in arms
        for name, against in arm.own_controls.items()
    ]
    return Table("controls", "Arms against their own controls", _COLUMNS, tuple(rows), _NOTES)


_NOTES = (
    "Matched: as many random samples of the same sources and lengths. Token-matched: random samples of as "
    "many tokens in all. Compute-matched: random samples for all that selecting and training on the arm's "
    "subset cost. In points, positive where the arm is better than its control; intervals and claims are of "
    "one family with the differences to the baseline."
)


def _cells(arm: ArmResult, control: ArmResult, against: Against) -> tuple[Cell, ...]:
    d, claim = against.difference, against.claim
    return (
        arm_cell(arm),
        text_cell(arm.budget),
        text_cell(control.arm),
        text_cell(kind_of(control)),
        spread(arm.mean),
        spread(control.mean),
        Cell(number_cell(d.value, points).text, (d.value, d.low, d.high, d.stderr)),
        corrected_cell(d),
        Cell(verdict(claim), (claim.verdict, claim.scope, claim.family, claim.reason)),
        Cell(p_value(d.corrected_p), (d.corrected_p, d.p)),
    )
