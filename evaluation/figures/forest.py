"""Forest plot: the difference of each arm to its baseline, with the interval that claims follow from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from evaluation.comparison import ArmResult, Comparison, Difference
from evaluation.figures import style
from evaluation.figures.arms import is_anchor, is_control, label
from evaluation.report import words

COLORS = {"beats": "#1769AA", "loses to": "#D9622B", "equivalent": "#222222", "undecided": "white"}
"""Fill of the marker by verdict; no verdict is drawn as a cross. The word stands beside it."""
MARKERS = {"beats": ">", "loses to": "<", "equivalent": "s", "undecided": "o"}
NAMES = 1.75
"""Inches that the longest name may take before it is shortened."""
LEAST = 1.7
"""Inches of the plot itself; with long names and claims the figure is wider than a page instead."""
REACH = 3.0
"""Intervals wider than this many median half widths are cut off with an arrow: one arm with two repetitions
would else make all others illegible."""


@dataclass(frozen=True)
class Line:
    """A row of the plot: an arm, or a heading where `arm` is None."""

    text: str
    arm: ArmResult | None = None


@style.in_style
def draw(comparison: Comparison) -> Any:
    """One row for each arm, sorted by its difference within budget, controls below the others.

    Thick: the interval of this difference alone; thin: the one that holds for the whole family at once,
    which the words at the right follow from. Band: the margin within which arms are called equivalent.
    """
    lines = list(_lines(comparison))
    shown = [line.arm for line in lines if line.arm]
    handles = _handles(comparison, shown)
    left = style.widest([line.text for line in lines if line.arm]) + 0.16
    numbers = {arm.arm: _numbers(arm.difference) for arm in shown}
    claims = {arm.arm: claim_word(arm, is_anchor(comparison, arm)) for arm in shown}
    columns = (
        style.widest([*numbers.values(), HEAD[0]], style.SMALL) + 0.14,
        style.widest([*claims.values(), HEAD[1]], style.SMALL) + 0.18,
    )
    width = max(style.PAGE, left + LEAST + sum(columns))
    bottom = 0.36 + style.legend_height([text for _, text in handles], width)
    figure = style.sheet(width, style.ROW * (len(lines) + 1.6) + bottom + 0.1)
    axes = style.place(figure, left, sum(columns), bottom, 0.1)
    axes.set_ylim(len(lines) - 0.5 + 0.1, -1.5)
    axes.set_xlim(*_limits(comparison, shown))
    _ground(axes, comparison, shown)
    _rows(axes, lines)
    _texts(axes, lines, numbers, claims, columns)
    style.legend(figure, [handle for handle, _ in handles], [text for _, text in handles])
    return figure


HEAD = ("difference [corrected 95 %]", "claim")


def _lines(comparison: Comparison) -> Iterator[Line]:
    """The arms by baseline, best first, under a heading where there is more than one group."""
    with_baseline = [arm for arm in comparison.arms if arm.baseline and arm.difference]
    groups = list(dict.fromkeys((arm.budget, arm.baseline) for arm in with_baseline))
    several = len({(a.budget, a.baseline) for a in with_baseline if not is_control(comparison, a)}) > 1
    controls: list[ArmResult] = []
    for budget, baseline in groups:
        own = [a for a in with_baseline if (a.budget, a.baseline) == (budget, baseline)]
        plain = [a for a in own if not is_control(comparison, a)]
        if several and plain:
            yield Line(f"{budget}, against {baseline}")
        yield from (Line(_name(a), a) for a in _best_first(plain))
        controls += [a for a in own if a not in plain]
    if controls:
        yield Line("controls")
        # of the same control at several budgets each names its own baseline
        several = len({a.baseline for a in controls}) > 1
        yield from (
            Line(_name(a, f" − {style.shorten(str(a.baseline), 0.7)}" if several else ""), a)
            for a in _best_first(controls)
        )


def _name(arm: ArmResult, end: str = "") -> str:
    return label(arm, NAMES, end=end)


def _best_first(arms: Sequence[ArmResult]) -> list[ArmResult]:
    return sorted(arms, key=lambda arm: -_value(arm))


def _value(arm: ArmResult) -> float:
    return arm.difference.value if arm.difference else math.nan


def _interval(arm: ArmResult) -> tuple[float, float]:
    """The corrected interval; (nan, nan) where it is not known."""
    d = arm.difference
    return (d.corrected_low, d.corrected_high) if isinstance(d, Difference) else (math.nan, math.nan)


def _numbers(d: Any) -> str:
    """The difference with its corrected interval, as the report writes them."""
    text = words.points(d.value)
    if isinstance(d, Difference) and not math.isnan(d.corrected_low):
        text += f" [{words.corrected(d)}]"
    return text.replace("-", style.MINUS)


def claim_word(arm: ArmResult, anchor: bool = False) -> str:
    """What may be said of the arm, in the report's words; a star where it rests on one benchmark."""
    claim = arm.claim
    if claim is None or claim.verdict is None:
        return "(anchor)" if anchor else "no verdict"
    star = "*" if arm.robustness and arm.robustness.rests_on else ""
    if words.sided(claim):
        # such a claim has a reason where the difference is also within the margin
        small = f", by less than {words.margin(claim)}" if claim.reason else ""
        baseline = style.shorten(str(arm.baseline), 0.9, style.SMALL)
        return f"{words.verdict(claim)} {baseline}{star}{small}"
    needed = claim.verdict == "undecided" and claim.needs and claim.needs.pools
    return f"{words.verdict(claim)}{star}" + (f": needs {words.design(claim.needs)}" if needed else "")


def _limits(comparison: Comparison, arms: Sequence[ArmResult]) -> tuple[float, float]:
    """Ends of the axis: all differences but of anchors, with their usual intervals."""
    inner = [arm for arm in arms if not is_anchor(comparison, arm)] or list(arms)
    halves = {arm.arm: (_interval(arm)[1] - _interval(arm)[0]) / 2 for arm in inner}
    known = [half for half in halves.values() if not math.isnan(half)]
    most = REACH * median(known) if known else 0.0
    reach = {name: 0.0 if math.isnan(half) else min(half, most) for name, half in halves.items()}
    margin = max((arm.claim.margin for arm in arms if arm.claim), default=1.0)
    low = min([-1.5 * margin, *(_value(arm) - reach[arm.arm] for arm in inner)])
    high = max([1.5 * margin, *(_value(arm) + reach[arm.arm] for arm in inner)])
    room = 0.04 * (high - low)
    return low - room, high + room


def _ground(axes: Any, comparison: Comparison, arms: Sequence[ArmResult]) -> None:
    """Zero line, margin band, axis with its label."""
    from matplotlib.ticker import MaxNLocator

    for margin in {arm.claim.margin for arm in arms if arm.claim}:
        axes.axvspan(-margin, margin, color=style.LIGHT, lw=0, zorder=0)
    axes.axvline(0, color=style.GREY, lw=0.8, zorder=1)
    baselines = {arm.baseline for arm in arms}
    to = f"{baselines.pop()}" if len(baselines) == 1 else "the baseline"
    scopes = {arm.claim.scope for arm in arms if arm.claim}
    scope = f", {scopes.pop()}" if len(scopes) == 1 else ""
    n = len(comparison.suite)
    axes.set_xlabel(
        f"difference to {style.shorten(to, 1.2)}, points{scope} ({n} benchmark{'s' if n > 1 else ''})"
    )
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _rows(axes: Any, lines: Sequence[Line]) -> None:
    """Intervals and markers, each kind as one artist: hundreds of them would take seconds to draw."""
    low, high = axes.get_xlim()
    rows = [(y, line.arm, line.arm.difference) for y, line in enumerate(lines) if line.arm]
    inside = [(y, arm, d) for y, arm, d in rows if d and low <= d.value <= high]
    wide = [(y, *_interval(arm)) for y, arm, _ in inside]
    line = {"color": style.INK, "zorder": 2, "capstyle": "butt"}
    axes.hlines([y for y, _, _ in wide], [a for _, a, _ in wide], [b for _, _, b in wide], lw=0.7, **line)
    axes.hlines(
        [y for y, _, _ in inside],
        [d.low for _, _, d in inside],
        [d.high for _, _, d in inside],
        lw=2.2,
        **line,
    )
    ends = [(end, y) for y, *both in wide for end in both if not math.isnan(end)]
    caps = [(end, y) for end, y in ends if low < end < high]
    axes.plot([end for end, _ in caps], [y for _, y in caps], **CAPS)
    for verdict in (*MARKERS, None):
        own = [(y, d) for y, arm, d in inside if (arm.claim.verdict if arm.claim else None) == verdict]
        axes.plot([d.value for _, d in own], [y for y, _ in own], zorder=4, ls="none", **_marker(verdict))
    beyond = [(d.value, y) for y, _, d in rows if d and not low <= d.value <= high]
    for x, y in [*beyond, *ends]:
        _edge(axes, x, y, low, high)


CAPS: dict[str, Any] = {"ls": "none", "marker": "|", "ms": 4, "mew": 0.7, "color": style.INK, "zorder": 2}


def _marker(verdict: str | None) -> dict[str, Any]:
    if verdict is None:
        return {"marker": "x", "ms": 4, "mfc": style.INK, "mec": style.INK, "mew": 1.0}
    return {"marker": MARKERS[verdict], "ms": 5, "mfc": COLORS[verdict], "mec": style.INK, "mew": 0.7}


def _edge(axes: Any, x: float, y: float, low: float, high: float) -> None:
    """An arrow at the edge of the axes for what lies outside."""
    if low <= x <= high:
        return
    at, marker = (low, "<") if x < low else (high, ">")
    axes.plot(at, y, marker=marker, ms=4, mfc=style.INK, mec=style.INK, mew=0.5, zorder=5, clip_on=False)


def _texts(
    axes: Any,
    lines: Sequence[Line],
    numbers: dict[str, str],
    claims: dict[str, str],
    columns: tuple[float, float],
) -> None:
    """Names at the left; numbers and claims at the right, under their headings."""
    from matplotlib.transforms import blended_transform_factory

    inches = axes.figure.get_size_inches()[0] * axes.get_position().width
    across = blended_transform_factory(axes.transAxes, axes.transData)
    at = (1 + (columns[0] / 2 + 0.04) / inches, 1 + (columns[0] + 0.08) / inches)

    def put(x: float, y: float, text: str, ha: str, **keywords: Any) -> None:
        axes.text(x, y, text, ha=ha, va="center_baseline", transform=across, **keywords)

    put(at[0], -1, HEAD[0], "center", fontsize=style.SMALL, color="#555555")
    put(at[1], -1, HEAD[1], "left", fontsize=style.SMALL, color="#555555")
    for y, line in enumerate(lines):
        if line.arm is None:
            left = axes.get_position().x0 * axes.figure.get_size_inches()[0] - 0.05
            put(-left / inches, y, line.text, "left", fontsize=style.SMALL, color="#555555")
            continue
        put(-0.07 / inches, y, line.text, "right")
        put(at[0], y, numbers[line.arm.arm], "center", fontsize=style.SMALL)
        put(at[1], y, claims[line.arm.arm], "left", fontsize=style.SMALL)


def _handles(comparison: Comparison, arms: Sequence[ArmResult]) -> list[tuple[Any, str]]:
    """Entries of the legend for what the plot shows."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    families = {arm.claim.family for arm in arms if arm.claim and arm.claim.family}
    family = f" of {families.pop()}" if len(families) == 1 else ""
    entries: list[tuple[Any, str]] = []
    if any(arm.difference and math.isfinite(arm.difference.low) for arm in arms):
        entries += [
            (Line2D([], [], color=style.INK, lw=2.2), "95 % interval, alone"),
            (Line2D([], [], color=style.INK, lw=0.7), f"corrected for the family{family}"),
        ]
    if any(
        arm.difference and math.isnan(arm.difference.low) for arm in arms if not is_anchor(comparison, arm)
    ):
        cross = Line2D([], [], ls="none", marker="x", ms=4, mec=style.INK)
        entries.append((cross, "one repetition: no interval"))
    margins = sorted({arm.claim.margin for arm in arms if arm.claim})
    if margins:
        text = " and ".join(f"{margin:g}" for margin in margins)
        entries.append((Patch(color=style.LIGHT), f"margin of ± {text} point{'s' if text != '1' else ''}"))
    if any(arm.robustness and arm.robustness.rests_on for arm in arms):
        entries.append((Line2D([], [], ls="none"), "* does not hold without one of the benchmarks"))
    return entries
