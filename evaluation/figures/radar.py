"""Radar of the arms that were named: one spoke for each benchmark."""

import math
from collections.abc import Sequence
from typing import Any

from evaluation.comparison import Comparison
from evaluation.figures import style
from evaluation.figures.means import LEVELS

MOST = 6
"""More lines cannot be told apart on a radar."""


@style.in_style
def draw(comparison: Comparison, names: Sequence[str]) -> Any:
    """Scores in % of the reference arm's if these are all above 0, else in % of each benchmark's scale.

    Raises ValueError for an unknown arm, for more than MOST, and for fewer than three benchmarks.
    """
    arms = [_found(comparison, name) for name in names]
    suite = comparison.suite
    if len(arms) > MOST:
        raise ValueError(f"radar: {len(arms)} arms were named, {MOST} can be told apart; name fewer")
    if len(suite) < 3:
        raise ValueError(f"radar: the suite has {len(suite)} benchmarks, a radar needs three; leave it out")
    reference = comparison.reference_arm
    scores = [
        b.percent(_found(comparison, reference).benchmarks[b.name].mean) if reference else 0.0 for b in suite
    ]
    relative = all(value > 0 for value in scores)
    divisor = scores if relative else [100.0] * len(suite)
    unit = f"% of {reference}" if relative else "% of the highest possible score"
    lines = [(style.shorten(arm.arm, 2.0, style.SMALL), arm) for arm in arms]
    labels = [text for text, _ in lines]
    levels = [(name, dashes, comparison.levels(name)) for name, dashes in LEVELS]
    levels = [level for level in levels if all(value is not None for value in level[2])]
    tops = [style.shorten(b.label, 1.2, style.SMALL) for b in suite]
    side = style.widest(tops, style.SMALL) + 0.2
    width = max(style.COLUMN, 2.4 + 2 * side)
    bottom = 0.45 + style.legend_height([*labels, *(name for name, _, _ in levels)], width)
    figure = style.sheet(width, 2.4 + bottom + 0.3)
    around = (width - 2.4) / 2
    axes = style.place(figure, around, around, bottom, 0.3, projection="polar")
    angles = [2 * math.pi * k / len(suite) for k in range(len(suite))]
    for k, (text, arm) in enumerate(lines):
        values = [
            100 * b.percent(arm.benchmarks[b.name].mean) / d for b, d in zip(suite, divisor, strict=True)
        ]
        axes.plot([*angles, 0.0], [*values, values[0]], label=text, **style.looks(k))
    edge = 1.05 * max(axes.get_ylim()[1], 1.0)
    for name, dashes, own in levels:
        values = [100 * b.percent(value or 0.0) / d for b, value, d in zip(suite, own, divisor, strict=True)]
        axes.plot([*angles, 0.0], [*values, values[0]], color=style.INK, lw=0.8, ls=dashes, label=name)
    _spokes(axes, angles, tops, edge)
    handles, texts = axes.get_legend_handles_labels()
    style.legend(figure, handles, texts, 0.2)
    figure.text(0.5, 0.05 / figure.get_size_inches()[1], unit, ha="center", va="bottom")
    return figure


def _found(comparison: Comparison, name: str) -> Any:
    known = [arm.arm for arm in comparison.arms]
    if name not in known:
        raise ValueError(f"radar: no arm is named {name}; the comparison has {', '.join(known)}")
    return comparison.arm(name)


def _spokes(axes: Any, angles: Sequence[float], labels: Sequence[str], edge: float) -> None:
    """Names of the benchmarks around, numbers of the rings between two spokes on white."""
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_ylim(0, edge)
    axes.set_xticks(angles, labels)
    axes.tick_params(axis="x", pad=1)
    for text, angle in zip(axes.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        text.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    step = next(s for s in (5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**9) if edge / s <= 5)
    rings = list(range(step, int(edge) + 1, step))
    axes.set_yticks(rings, [])
    white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    for ring in rings:  # above the lines, which would strike the numbers of the axis through
        where = {"ha": "center", "va": "center", "fontsize": style.TINY, "zorder": 6}
        axes.text(math.pi / len(angles), ring, str(ring), bbox=white, **where)
    axes.spines["polar"].set_linewidth(0.5)
