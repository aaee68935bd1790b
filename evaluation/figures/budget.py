"""Score against budget: each method as a line over its budgets, above or below the band of random."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from evaluation.comparison import ArmResult, Comparison
from evaluation.context import Context
from evaluation.figures import beside, style
from evaluation.figures.arms import is_anchor, samples, series_name

MOST = 40
"""Methods with a name of their own; of more, only those with several budgets are drawn."""


@dataclass(frozen=True)
class Point:
    """An arm at its budget; `low` and `high` are the 95 % interval of its mean, NaN of one repetition."""

    x: float
    mean: float
    low: float
    high: float
    budget: str


def can_show(comparison: Comparison, context: Context) -> bool:
    """Whether random, or the arms, have two budgets or more whose size is known."""
    size = _sizes(comparison, context)
    others = [arm for arm in comparison.arms if not is_anchor(comparison, arm) and arm.arm in size]
    return len({size[arm.arm] for arm in others}) > 1 and len({arm.budget for arm in others}) > 1


@style.in_style
def draw(comparison: Comparison, context: Context) -> Any:
    """Means over benchmarks in %, budgets on a logarithmic axis.

    Band: the mean of random and its 95 % interval (t over pools where there are several, else over
    repetitions). A point outside the band is no claim: those follow from the differences.
    """
    size = _sizes(comparison, context)
    series = _series(comparison, size)
    random = {name for name, own in series.items() if any(arm.arm in comparison.baselines for arm, _ in own)}
    methods = {name: [p for _, p in own] for name, own in series.items() if name not in random}
    left_out = 0
    if len(methods) > MOST:
        kept = {name: own for name, own in methods.items() if len({p.x for p in own}) > 1}
        left_out, methods = len(methods) - len(kept), kept
    band = sorted((p for name in random for _, p in series[name]), key=lambda p: p.x)
    named = [beside.Named(own[-1].x, own[-1].mean, name) for name, own in methods.items()]
    if band:
        named.append(beside.Named(band[-1].x, band[-1].mean, " and ".join(sorted(random))))
    handles = _handles(comparison, band, left_out)
    labels = [text for _, text in handles]
    wide = style.PAGE if len(named) > 6 else 0.7 * style.PAGE
    bottom = 0.5 + style.legend_height(labels, wide)
    tall = beside.height(named, 2.0)
    figure = style.sheet(wide, tall + bottom + 0.12)
    axes = style.place(figure, style.SCORES, beside.width(named), bottom, 0.12)
    _random(axes, band)
    for k, own in enumerate(methods.values()):
        axes.plot([p.x for p in own], [p.mean for p in own], zorder=3, **style.looks(k))
    reference = next((a for a in comparison.arms if a.arm == comparison.reference_arm), None)
    if reference:
        axes.axhline(reference.mean.mean, color=style.INK, lw=0.8, ls=(0, (1.2, 1.2)), zorder=1.5)
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.06)
    style.scores(axes, len(comparison.suite))
    _ticks(axes, [p for own in methods.values() for p in own] + band)
    axes.set_xlabel("samples (budget)" if samples(context) else "budget, % of the pool")
    beside.write(axes, named)
    style.legend(figure, [handle for handle, _ in handles], labels)
    return figure


def _sizes(comparison: Comparison, context: Context) -> dict[str, float]:
    """Arm -> samples; without a context that knows them, the percent of its budget."""
    if known := samples(context):
        return {name: size for name, size in known.items() if size > 0}
    found = {arm.arm: re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", arm.budget) for arm in comparison.arms}
    return {name: float(match[1]) for name, match in found.items() if match and float(match[1]) > 0}


def _series(comparison: Comparison, size: Mapping[str, float]) -> dict[str, list[tuple[ArmResult, Point]]]:
    """Name of the method -> its arms by budget, without anchors."""
    series: dict[str, list[tuple[ArmResult, Point]]] = {}
    for arm in comparison.arms:
        if arm.arm in size and not is_anchor(comparison, arm):
            series.setdefault(series_name(arm), []).append((arm, _point(arm, size[arm.arm])))
    return {name: sorted(own, key=lambda pair: pair[1].x) for name, own in series.items()}


def _point(arm: ArmResult, x: float) -> Point:
    from scipy.special import stdtrit

    units = arm.pool_means if len(arm.pool_means) > 1 else arm.unit_means
    n, mean = len(units), fmean(units)
    half = stdtrit(n - 1, 0.975) * stdev(units) / math.sqrt(n) if n > 1 else math.nan
    return Point(x, mean, mean - half, mean + half, arm.budget)


def _random(axes: Any, band: Sequence[Point]) -> None:
    if not band:
        return
    x = [p.x for p in band]
    axes.fill_between(x, [p.low for p in band], [p.high for p in band], color="#D2D2D2", lw=0, zorder=1)
    axes.plot(x, [p.mean for p in band], color="#555555", lw=1.4, zorder=2, marker="s", ms=3)
    if len(band) == 1 and not math.isnan(band[0].low):
        axes.plot(x * 2, (band[0].low, band[0].high), color="#D2D2D2", lw=6, zorder=1)


def _ticks(axes: Any, points: Sequence[Point]) -> None:
    """A tick with size and budget at each budget, as far as their labels have room."""
    figure = axes.figure
    inches = axes.get_position().width * figure.get_size_inches()[0]
    low, high = axes.get_xlim()
    per = inches / math.log(high / low)
    shown: list[tuple[float, str]] = []
    end = -math.inf
    for x, budget in sorted({p.budget: (p.x, p.budget) for p in points}.values()):
        size = f"{x:,.0f}" if x >= 10 else f"{x:g}"
        text = f"{size}\n({budget})" if budget not in (size, f"{size}%") else size
        half = style.widest(text.split("\n"), style.SMALL) / 2
        middle = per * math.log(x / low)
        if middle - half > end + 0.05:
            shown.append((x, text))
            end = middle + half
    axes.minorticks_off()
    axes.set_xticks([x for x, _ in shown], [text for _, text in shown])


def _handles(comparison: Comparison, band: Sequence[Point], left_out: int) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[tuple[Any, str]] = []
    if any(not math.isnan(p.low) for p in band):
        entries.append((Patch(color="#D2D2D2"), "random: 95 % interval of its mean"))
    if comparison.reference_arm:
        line = Line2D([], [], color=style.INK, lw=0.8, ls=(0, (1.2, 1.2)))
        entries.append((line, style.shorten(comparison.reference_arm, 1.2, style.SMALL)))
    if left_out:
        entries.append((Line2D([], [], ls="none"), f"not drawn: {left_out} methods of one budget"))
    return entries
