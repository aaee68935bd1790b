"""Score against what an arm costs in all, selection and training, with the frontier of the best."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.comparison import ArmResult, Comparison
from evaluation.context import Context, Cost
from evaluation.figures import beside, style
from evaluation.figures.arms import is_control, label

KINDS = (("flops", "FLOPs"), ("gpu_hours", "GPU-hours"), ("seconds", "seconds"))
"""Fields of `Cost` after selection_ and training_, and their words; what most arms have is drawn."""
MOST = 40
"""Arms with a name; of more, the frontier and the controls have one."""


@style.in_style
def draw(comparison: Comparison, context: Context) -> Any:
    """Means over benchmarks in %, total cost on a logarithmic axis.

    Frontier: arms that no cheaper or equally expensive arm reaches, without random samples that are like
    another arm's. Dashed: the baseline's score, which whatever costs more has to exceed. Raises ValueError if
    `totals` is empty.
    """
    kind, cost = totals(comparison, context)
    if not cost:
        raise ValueError(
            "score against cost: no arm has a known cost of selection and training; "
            "give `Context.costs` seconds, GPU-hours or FLOPs of both"
        )
    arms = [arm for arm in comparison.arms if arm.arm in cost]
    x = _positions(cost)
    front = frontier(arms, cost)
    named = [
        beside.Named(x[a.arm], a.mean.mean, _name(a, cost), light=a.arm not in front)
        for a in arms
        if len(arms) <= MOST or a.arm in front or is_control(comparison, a)
    ]
    handles = _handles(comparison, arms, len(comparison.arms) - len(arms), len(arms) - len(named))
    labels = [text for _, text in handles]
    wide = style.PAGE if len(named) > 6 else 0.7 * style.PAGE
    bottom = 0.4 + style.legend_height(labels, wide)
    figure = style.sheet(wide, beside.height(named, 2.0) + bottom + 0.12)
    axes = style.place(figure, style.SCORES, beside.width(named), bottom, 0.12)
    axes.set_xscale("log")
    for arm in arms:
        axes.plot(x[arm.arm], arm.mean.mean, **_looks(comparison, arm, front))
    axes.margins(x=0.07, y=0.07)
    axes.autoscale_view()
    limits = axes.get_xlim()
    _lines(axes, comparison, [(x[arm.arm], arm) for arm in arms], front)
    axes.set_xlim(limits)
    style.scores(axes, len(comparison.suite))
    axes.set_xlabel(f"selection and training, {kind}")
    _ticks(axes, limits)
    beside.write(axes, named)
    style.legend(figure, [handle for handle, _ in handles], labels)
    return figure


def _lines(
    axes: Any, comparison: Comparison, placed: Sequence[tuple[float, ArmResult]], front: Sequence[str]
) -> None:
    """The frontier in steps, and the score of each baseline, from their arms to the right edge."""
    right = axes.get_xlim()[1]
    steps = [(x, arm.mean.mean) for name in front for x, arm in placed if arm.arm == name]
    if steps:
        across, up = zip(*steps, (right, steps[-1][1]), strict=True)
        axes.step(across, up, where="post", color=style.PALETTE[0], lw=1.0, zorder=2)
    for x, arm in placed:
        if arm.arm in comparison.baselines:
            axes.plot((x, right), [arm.mean.mean] * 2, **BASELINE)


BASELINE: dict[str, Any] = {"color": "#555555", "lw": 0.9, "ls": (0, (4, 1.5)), "zorder": 1.5}


def totals(comparison: Comparison, context: Context) -> tuple[str, dict[str, float]]:
    """(word for the kind of cost, arm -> selection + training); of the kind that the most arms have."""
    found = [(word, _total(comparison, context.costs, kind)) for kind, word in KINDS]
    return max(found, key=lambda pair: len(pair[1]))  # the first of those with equally many


def _name(arm: ArmResult, cost: Mapping[str, float]) -> str:
    return label(arm, beside.NAMES, style.SMALL, "" if cost[arm.arm] else " (no cost)")


def _total(comparison: Comparison, costs: Mapping[str, Cost], kind: str) -> dict[str, float]:
    known = {}
    for arm in comparison.arms:
        if (cost := costs.get(arm.arm)) is None:
            continue
        parts = [getattr(cost, f"selection_{kind}"), getattr(cost, f"training_{kind}")]
        if None not in parts:
            known[arm.arm] = float(sum(parts))
    return known


def frontier(arms: Sequence[ArmResult], cost: Mapping[str, float]) -> list[str]:
    """Names of the arms, cheapest first, that score more than each that costs as much or less.

    Random samples that are like an arm's are no choice without that arm, and are left out.
    """
    best, names = float("-inf"), []
    choices = [arm for arm in arms if arm.control not in ("matched", "tokens")]
    for arm in sorted(choices, key=lambda a: (cost[a.arm], -a.mean.mean)):
        if arm.mean.mean > best:
            best = arm.mean.mean
            names.append(arm.arm)
    return names


def _positions(cost: Mapping[str, float]) -> dict[str, float]:
    """Where the arms stand on the axis: those without a cost left of all others."""
    least = min((value for value in cost.values() if value > 0), default=1.0)
    return {name: value or least / 2 for name, value in cost.items()}


def _looks(comparison: Comparison, arm: ArmResult, front: Sequence[str]) -> dict[str, Any]:
    """Shape by role, filled dark on the frontier."""
    marker = "^" if arm.arm == comparison.reference_arm else "s" if is_control(comparison, arm) else "o"
    fill = style.PALETTE[0] if arm.arm in front else "white"
    return {"marker": marker, "ms": 4.6, "mfc": fill, "mec": style.INK, "mew": 0.7, "ls": "none", "zorder": 3}


def _ticks(axes: Any, limits: tuple[float, float]) -> None:
    """At most six ticks: round numbers of a narrow axis, else some of each decade, or whole decades."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    low, high = limits
    if high < 3 * low:
        ticks = [float(t) for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
            if len(ticks) <= 6:
                break
        ticks = ticks[:: -(-len(ticks) // 6) or 1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axes.minorticks_off()


def _power(value: float) -> str:
    """As 2e15 beyond six digits, else plain."""
    if 1e-3 <= value < 1e6:
        return f"{value:,.10g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _handles(
    comparison: Comparison, arms: Sequence[ArmResult], unknown: int, unnamed: int
) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"ls": "none", "ms": 4.6, "mec": style.INK, "mew": 0.7}
    entries: list[tuple[Any, str]] = [
        (Line2D([], [], color=style.PALETTE[0], lw=1.0, marker="o", ms=4.6), "frontier"),
        (Line2D([], [], marker="o", mfc="white", **dot), "other arm"),
    ]
    if any(is_control(comparison, arm) for arm in arms):
        entries.append((Line2D([], [], marker="s", mfc="white", **dot), "control"))
    if any(arm.arm == comparison.reference_arm for arm in arms):
        entries.append(
            (
                Line2D([], [], marker="^", mfc="white", **dot),
                style.shorten(str(comparison.reference_arm), 1.2),
            )
        )
    if any(arm.arm in comparison.baselines for arm in arms):
        dashed = {key: value for key, value in BASELINE.items() if key != "zorder"}
        entries.append((Line2D([], [], **dashed), "score of the baseline"))
    if unknown:
        entries.append((Line2D([], [], ls="none"), f"not drawn: {unknown} of unknown cost"))
    if unnamed:
        entries.append((Line2D([], [], ls="none"), f"without a name: {unnamed}"))
    return entries
