"""Tables with a row for each arm: first columns, groups of arms, and which arms a long table shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evaluation.comparison import ArmResult, Comparison
from evaluation.figures.arms import is_control
from evaluation.report.table import Cell, Column, Group, Row, Table, text_cell

SHOWN_AT_ENDS = 10
"""Rows at either end of a long table that report.md shows, by difference; the CSV has all."""
MAX_SHOWN = 40
"""Rows of a group that report.md shows in full."""
ARM = Column("arm", ("arm", "targeted"), left=True, foreign=True)
_CONTROL = Column("control", ("control", "control_of"), left=True, foreign=True)
KINDS = {
    "full": "all data",
    "zero": "no training",
    "random": "random",
    "balanced": "balanced random",
    "matched": "matched random",
    "tokens": "token-matched random",
    "compute": "compute-matched random",
}
"""Kind of control (`ArmResult.control`) -> how it is called; another kind is called by its name."""
BUDGET = Column("budget", ("budget",), left=True, foreign=True)


@dataclass(frozen=True)
class Of:
    """A column of a table with a row for each arm: its cell is a function of the arm."""

    column: Column
    cell: Callable[[ArmResult], Cell]


def names_of(comparison: Comparison) -> list[Of]:
    """The columns that say which arm a row is of, and on how many repetitions it rests."""
    several = len(comparison.pools) > 1
    controls = [Of(_CONTROL, _control_cell)] if any(arm.control for arm in comparison.arms) else []
    return [
        Of(ARM, arm_cell),
        *controls,
        Of(BUDGET, lambda arm: text_cell(arm.budget)),
        Of(
            Column("pools x seeds" if several else "seeds", ("pools", "repetitions", "runs")),
            lambda arm: _repetitions(arm, len(comparison.pools)),
        ),
    ]


def arm_cell(arm: ArmResult) -> Cell:
    """The arm's name."""
    shown = f"{arm.arm} (targeted)" if arm.targeted else arm.arm
    return Cell(shown, (arm.arm, "targeted" if arm.targeted else ""))


def _control_cell(arm: ArmResult) -> Cell:
    kind = kind_of(arm)
    return Cell(f"{kind} for {arm.control_of}" if arm.control_of else kind, (arm.control, arm.control_of))


def kind_of(arm: ArmResult) -> str:
    """What kind of control the arm is, in words; empty for an arm under test."""
    return KINDS.get(arm.control, arm.control)


def _repetitions(arm: ArmResult, pools: int) -> Cell:
    each, rest = divmod(arm.units, pools)
    text = str(arm.units) if pools == 1 else f"{arm.units} on {pools}" if rest else f"{pools} x {each}"
    runs = "" if arm.units == arm.runs else f" ({arm.runs} runs)"
    return Cell(text + runs, (pools, arm.units, arm.runs))


def grouped(comparison: Comparison) -> dict[Group, list[ArmResult]]:
    """The arms under test and the controls, each in the order of the comparison."""
    groups: dict[Group, list[ArmResult]] = {"arms": [], "controls": []}
    for arm in comparison.arms:
        groups["controls" if is_control(comparison, arm) else "arms"].append(arm)
    return groups


def by_arm(
    name: str,
    title: str,
    comparison: Comparison,
    columns: Sequence[Of],
    notes: str,
    compared_only: bool = False,
) -> Table:
    """A table with a row for each arm, controls last; or for each that is compared with a baseline."""
    rows = [
        Row(tuple(of.cell(arm) for of in columns), group)
        for group, arms in grouped(comparison).items()
        for arm in arms
        if not compared_only or arm.difference
    ]
    return Table(name, title, tuple(of.column for of in columns), tuple(rows), notes)


def shown_arms(comparison: Comparison) -> set[str] | None:
    """The arms that report.md shows where a table is long; None: all.

    Of a group of more than MAX_SHOWN, those of the highest and the lowest differences.
    """
    kept: set[str] = set()
    for group in grouped(comparison).values():
        ordered = by_difference(group)
        ends = [*ordered[:SHOWN_AT_ENDS], *ordered[-SHOWN_AT_ENDS:]] if len(group) > MAX_SHOWN else ordered
        kept.update(arm.arm for arm in ends)
    kept.update(comparison.baselines)
    return None if len(kept) == len(comparison.arms) else kept


def by_difference(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """By falling difference, arms without one last."""
    return sorted(arms, key=lambda arm: -arm.difference.value if arm.difference else float("inf"))


def shortened(table: Table, kept: set[str] | None) -> Table:
    """The table with the rows of these arms and of the levels."""
    if kept is None:
        return table
    return replace(
        table,
        rows=tuple(row for row in table.rows if row.group == "levels" or row.cells[0].values[0] in kept),
    )
