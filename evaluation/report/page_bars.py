"""Intervals as small bars in the cells of the page's table of claims: SVG whose only contents are numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from evaluation.comparison import ArmResult, Difference
from evaluation.statistics.basic import Interval

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 180, 18
"""Pixels of a bar."""
LEAST_REACH = 1.0
"""Points on either side of 0 that an axis shows at least."""
WIDEST = 3.0
"""Median half widths that an interval may be wide before it is cut off at the end of its bar."""


@dataclass(frozen=True)
class Axis:
    """The points `-reach` to `reach` over the width of a bar, so that bars of one table can be compared."""

    reach: float

    @classmethod
    def of(cls, arms: Sequence[ArmResult]) -> "Axis":
        """An axis that holds every value and margin of these arms, and all intervals but very wide ones.

        One arm of two repetitions would else make the bars of all others dots.
        """
        known = [arm.difference for arm in arms if arm.difference and math.isfinite(arm.difference.value)]
        ends = [[abs(end) for end in _ends(d) if math.isfinite(end)] for d in known]
        half = median([max(own) - abs(d.value) for own, d in zip(ends, known, strict=True)] or [0.0])
        reaches = [min(max(own), abs(d.value) + WIDEST * half) for own, d in zip(ends, known, strict=True)]
        margins = [arm.claim.margin for arm in arms if arm.claim]
        return cls(1.05 * max([LEAST_REACH, *margins, *reaches]))

    def at(self, points: float) -> str:
        """The horizontal place of a value, in pixels."""
        return f"{WIDTH * (points + self.reach) / (2 * self.reach):.1f}"

    def line(self, low: float, high: float, y: float, kind: str) -> str:
        """A horizontal line, or nothing where an end is not known."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return ""
        return f'<line class="{kind}" x1="{self.at(low)}" x2="{self.at(high)}" y1="{y}" y2="{y}"/>'


def bar(arm: ArmResult, axis: Axis) -> "Markup":
    """The difference of one arm: corrected interval (thin), its own (thick), value (dot), margin (band)."""
    from markupsafe import Markup

    d = arm.difference
    if d is None or not math.isfinite(d.value):
        return Markup("")
    word = arm.claim.verdict.split()[0] if arm.claim and arm.claim.verdict else "none"
    corrected = axis.line(*_corrected(d), HEIGHT / 2, "wide")
    own = axis.line(d.low, d.high, HEIGHT / 2, "own")
    dot = f'<circle class="dot" cx="{axis.at(d.value)}" cy="{HEIGHT / 2}" r="3.5"/>'
    # The cells beside the bar hold the same numbers as text, so that nothing is lost to who cannot see it.
    return Markup(
        f'<svg class="{word}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'aria-hidden="true">{_ground(arm, axis)}{corrected}{own}{dot}</svg>'
    )


def scale(axis: Axis) -> "Markup":
    """The numbers above the bars: both ends and 0, in points."""
    from markupsafe import Markup

    end = f"{axis.reach:.1f}" if axis.reach < 10 else f"{axis.reach:.0f}"
    places = ((0, "start", f"\N{MINUS SIGN}{end}"), (WIDTH / 2, "middle", "0"), (WIDTH, "end", f"+{end}"))
    texts = "".join(
        f'<text class="tick" x="{x:g}" y="10" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in places
    )
    return Markup(
        f'<svg width="{WIDTH}" height="12" viewBox="0 0 {WIDTH} 12" aria-hidden="true">{texts}</svg>'
    )


def _ground(arm: ArmResult, axis: Axis) -> str:
    """The margin's band, if there is a claim, and the line of 0."""
    zero = f'<line class="zero" x1="{axis.at(0)}" x2="{axis.at(0)}" y1="0" y2="{HEIGHT}"/>'
    if arm.claim is None:
        return zero
    margin = arm.claim.margin
    width = float(axis.at(margin)) - float(axis.at(-margin))
    band = f'<rect class="band" x="{axis.at(-margin)}" y="0" width="{width:.1f}" height="{HEIGHT}"/>'
    return band + zero


def _corrected(d: Interval) -> tuple[float, float]:
    return (d.corrected_low, d.corrected_high) if isinstance(d, Difference) else (math.nan, math.nan)


def _ends(d: Interval) -> tuple[float, ...]:
    return (d.value, d.low, d.high, *_corrected(d))
