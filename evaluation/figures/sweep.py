"""Figure of a sweep: the difference to the baseline against the value of each key, one panel per key."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.figures.comparison import MARKERS, PALETTE, save_figure

Point = tuple[Any, float, float, float]
"""(value of the key, difference, low, high end of its interval)."""
COLUMNS = 4


def draw_sweep(panels: Mapping[str, Mapping[str, Sequence[Point]]], path: Path) -> Path:
    """One panel per key, one line per arm; bars are the intervals. All panels share the y axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.9, 2.7 * lines + 0.7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    style = {
        arm: {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)]}
        for k, arm in enumerate(arms)
    }
    for axes, (key, panel) in zip(grid.flat, panels.items(), strict=False):  # the last places may stay empty
        _panel(axes, key, panel, style)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("difference (points)")
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9
    )
    figure.suptitle("Difference to the baseline, mean over benchmarks (95 % interval)", fontsize=10)
    return save_figure(figure, path)


def _panel(
    axes: Any, key: str, panel: Mapping[str, Sequence[Point]], style: Mapping[str, Mapping[str, str]]
) -> None:
    """Numbers at their value, others side by side in order; arms slightly apart, lest bars overlap."""
    values = list(dict.fromkeys(str(point[0]) for points in panel.values() for point in points))
    numbers = all(
        isinstance(p[0], int | float) and not isinstance(p[0], bool)
        for points in panel.values()
        for p in points
    )
    at = {v: float(v) if numbers else float(k) for k, v in enumerate(values)}
    width = (max(at.values()) - min(at.values()) if at else 0) or 1.0
    for k, (arm, points) in enumerate(panel.items()):
        x = [at[str(p[0])] + 0.025 * width * (k - (len(panel) - 1) / 2) for p in points]
        below, above = ([abs(p[1] - p[end]) for p in points] for end in (2, 3))
        axes.errorbar(
            x, [p[1] for p in points], yerr=[below, above], label=arm, lw=1.4, ms=5, capsize=3, **style[arm]
        )
    axes.axhline(0, color="#8C8C8C", lw=1, zorder=1)
    axes.set_xticks(list(at.values()), values)
    axes.margins(x=0.12)
    axes.set_title(key, fontsize=9)
    axes.grid(axis="y", color="#D9D9D9", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
