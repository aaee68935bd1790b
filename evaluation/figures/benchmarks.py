"""Differences to the baseline by arm and benchmark, which of them hold is marked."""

from collections.abc import Sequence
from typing import Any

from evaluation.comparison import ArmResult, Comparison
from evaluation.figures import cells, style
from evaluation.figures.arms import compared, is_control, label
from evaluation.suite import Suite

NAMES = 1.7


@style.in_style
def draw(comparison: Comparison) -> Any:
    """Arms (rows, as in the forest plot) by benchmarks (columns, then their mean), in points.

    Positive is better, also where a lower score is. A frame: the corrected interval excludes 0.
    """
    suite, arms = comparison.suite, _ordered(comparison)
    columns = [*(style.shorten(b.label, 1.1, style.SMALL) for b in suite), "mean"]
    several = len({arm.baseline for arm in arms}) > 1
    names = [
        label(arm, NAMES, style.SMALL, f" − {style.shorten(str(arm.baseline), 0.7)}" if several else "")
        for arm in arms
    ]
    values = [[value for value, _ in _cells(arm, suite)] for arm in arms]
    reach = max(1.0, *(abs(value) for row in values for value in row))
    left = style.widest(names, style.SMALL) + 0.14
    cell = max(0.31, (style.PAGE - left - 0.3) / len(columns)) if len(suite) > 6 else 0.45
    above, right = cells.room(columns, cell)
    note = "difference to the baseline, points; framed: the corrected interval excludes 0"
    width = max(left + cell * len(columns) + right, style.text_width(note) + 0.2)
    figure = style.sheet(width, above + 0.27 + style.ROW * len(arms))
    axes = style.place(figure, left, width - left - cell * len(columns), 0.25, above + 0.02)
    # two digits and a decimal would not fit into a frame
    texts = [[style.signed(v, 1 if abs(v) < 9.95 else 0) for v in row] for row in values]
    cells.fill(axes, values, texts, style.DIVERGING, -reach, reach)
    marked = [
        (y, x) for y, arm in enumerate(arms) for x, (_, clear) in enumerate(_cells(arm, suite)) if clear
    ]
    cells.box(axes, marked)
    cells.name_columns(axes, columns)
    axes.set_yticks(range(len(arms)), names)
    axes.axvline(len(suite) - 0.5, color=style.INK, lw=1.0)
    for y in range(1, len(arms)):
        if _group(comparison, arms[y]) != _group(comparison, arms[y - 1]):
            axes.axhline(y - 0.5, color=style.INK, lw=1.0)
    figure.text(0.5, 0.06 / figure.get_size_inches()[1], note, ha="center", va="bottom")
    return figure


def _ordered(comparison: Comparison) -> list[ArmResult]:
    """By budget, the best first, controls last."""
    arms = compared(comparison)
    budgets = list(dict.fromkeys(arm.budget for arm in arms))

    def place(arm: ArmResult) -> tuple[bool, int, float]:
        value = arm.difference.value if arm.difference else 0.0
        return is_control(comparison, arm), budgets.index(arm.budget), -value

    return sorted(arms, key=place)


def _group(comparison: Comparison, arm: ArmResult) -> tuple[bool, str]:
    return is_control(comparison, arm), arm.budget


def _cells(arm: ArmResult, suite: Suite) -> Sequence[tuple[float, bool]]:
    """(difference, whether 0 is outside its corrected interval) by benchmark and of the mean."""
    own = [arm.benchmark_differences[b.name] for b in suite]
    if arm.difference:
        own.append(arm.difference)
    return [(d.value, d.corrected_low > 0 or d.corrected_high < 0) for d in own]
