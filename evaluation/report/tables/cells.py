"""Cells of the tables: how a value of the comparison is shown, and what stands for it in CSV."""

from evaluation.comparison import ArmResult, Difference, Spread
from evaluation.report.table import DASH, Cell, Mark
from evaluation.report.words import corrected, points, verdict


def spread(of: Spread, factor: float = 1.0, mark: Mark = "") -> Cell:
    """The mean, and ± the standard deviation if it is known."""
    deviation = None if of.std is None else factor * of.std
    return Cell(spread_text(of, factor), (factor * of.mean, deviation), mark)


def spread_text(of: Spread, factor: float = 1.0) -> str:
    """The mean, and ± the standard deviation if it is known."""
    return f"{factor * of.mean:.1f}" + ("" if of.std is None else f" ± {factor * of.std:.1f}")


def own_cell(arm: ArmResult) -> Cell:
    """The difference to the baseline, without an interval."""
    d = arm.difference
    if d is None:
        return Cell(DASH, (None,) * 4)
    return Cell(points(d.value), (d.value, d.low, d.high, tested(arm, "stderr")))


def claimed_cell(arm: ArmResult) -> Cell:
    """The word of the arm's claim; a dash for an anchor."""
    return Cell(DASH if arm.anchor else verdict(arm.claim), (arm.claim.verdict if arm.claim else None,))


def corrected_cell(d: Difference | None) -> Cell:
    """The corrected interval in brackets."""
    if d is None or corrected(d) == DASH:
        return Cell(DASH, (None, None))
    return Cell(f"[{corrected(d)}]", (d.corrected_low, d.corrected_high))


def tested(arm: ArmResult, name: str) -> float | None:
    """A field of the arm's difference; None without one."""
    return getattr(arm.difference, name) if arm.difference else None


def signed(d: Difference | None) -> Cell:
    """A difference with its sign, and a star if its corrected interval excludes 0."""
    if d is None:
        return Cell(DASH, (None,) * 5)
    clear = d.corrected_low > 0 or d.corrected_high < 0
    values = (d.value, d.low, d.high, d.corrected_low, d.corrected_high)
    text = f"{d.value:+.1f}"
    return Cell(("+0.0" if text == "-0.0" else text) + "*" * clear, values)


def interval(d: Difference | None) -> Cell:
    """A difference with its own 95 % interval."""
    if d is None:
        return Cell(DASH, (None,) * 3)
    own = "" if d.low != d.low else f" [{points(d.low)}, {points(d.high)}]"
    return Cell(points(d.value) + own, (d.value, d.low, d.high))


def own_with_corrected(d: Difference | None) -> Cell:
    """A difference with its corrected interval."""
    if d is None:
        return Cell(DASH, (None,) * 3)
    ends = corrected(d)
    text = points(d.value) + ("" if ends == DASH else f" [{ends}]")
    return Cell(text, (d.value, d.corrected_low, d.corrected_high))
