"""Pictures of a comparison: means of arms, single benchmarks, radar. Drawn without a display; the same bytes every
time."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.aggregate import ArmResult, Comparison

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe & Ito's colours, told apart also with a colour vision deficiency."""
BASELINE, FULL = "#8C8C8C", "#303030"
MARKERS = "osD^vP"
MAX_RADAR_ARMS = 6


def draw_all(comparison: Comparison, out: Path) -> list[Path]:
    """Write means.png, benchmarks.png and (three benchmarks or more) radar.png into `out`; returns their paths."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    pictures = [draw_means(comparison, out / "means.png"), draw_benchmarks(comparison, out / "benchmarks.png")]
    return pictures + ([draw_radar(comparison, out / "radar.png")] if len(comparison.suite) > 2 else [])


def draw_means(comparison: Comparison, path: Path) -> Path:
    """One bar for each arm: mean over benchmarks in %, standard deviation over seeds, every seed as a dot."""
    arms = comparison.arms
    figure, axes = _figure(max(4.8, 1.35 * len(arms) + 1.8), 4.2)
    for x, (arm, color) in enumerate(zip(arms, _colors(comparison))):
        axes.bar(x, arm.mean.mean, width=0.62, color=color, zorder=2)
        if arm.units > 1:
            axes.errorbar(
                x, arm.mean.mean, yerr=arm.mean.std, fmt="none", capsize=6, ecolor="black", elinewidth=1.4, zorder=4
            )
        beside = [x + 0.13 + 0.12 * k / max(arm.units - 1, 1) for k in range(arm.units)]
        axes.scatter(beside, arm.unit_means, s=20, color="white", edgecolor="black", linewidth=0.9, zorder=3)
        top = max(*arm.unit_means, arm.mean.mean + (arm.mean.std or 0))
        axes.annotate(
            f"{arm.mean.mean:.1f}", (x, top), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=10
        )
    _level_lines(figure, axes, comparison)
    axes.set_xticks(range(len(arms)), [_name(arm) for arm in arms])
    axes.set_ylim(0, min(108, 1.15 * max(max(arm.unit_means) + (arm.mean.std or 0) for arm in arms) + 1))
    axes.set_ylabel(f"mean of {len(comparison.suite)} benchmarks (%)")
    axes.set_title("Mean score by arm (bar: mean of seeds, line: ± std, dot: one seed)", fontsize=10)
    return _save(figure, path)


def draw_benchmarks(comparison: Comparison, path: Path) -> Path:
    """Grouped bars: every benchmark, one bar for each arm with ± std over seeds; a black line shows the chance
    level."""
    from matplotlib.patheffects import withStroke

    suite, arms = comparison.suite, comparison.arms
    figure, axes = _figure(max(7.0, 0.2 * len(suite) * (len(arms) + 1.2)), 4.4)
    width = 0.84 / len(arms)
    for k, (arm, color) in enumerate(zip(arms, _colors(comparison))):
        values = [100 * arm.benchmarks[b.task].mean / b.scale for b in suite]
        errors = [100 * (arm.benchmarks[b.task].std or 0) / b.scale for b in suite]
        at = [x - 0.42 + width * (k + 0.5) for x in range(len(suite))]
        axes.bar(at, values, width=0.92 * width, color=color, label=_name(arm).replace("\n", ", "), zorder=2)
        if arm.units > 1:
            axes.errorbar(at, values, yerr=errors, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5, zorder=3)
    for x, b in enumerate(suite):
        axes.plot(
            [x - 0.46, x + 0.46],
            [100 * comparison.chance[b.task] / b.scale] * 2,
            color="black",
            lw=1.6,
            zorder=4,
            label="chance" if x == 0 else None,
            path_effects=[withStroke(linewidth=3.4, foreground="white")],
        )
    axes.set_xticks(range(len(suite)), [b.label for b in suite], rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(suite) - 0.4)
    axes.set_ylim(0, None)
    axes.set_ylabel("score (%)")
    _legend(figure, len(arms) + 1)
    return _save(figure, path)


def draw_radar(comparison: Comparison, path: Path) -> Path:
    """One axis for each benchmark. In % of the full-data arm where that is defined, else in % of the benchmark's
    scale."""
    suite, full = comparison.suite, comparison.full_arm
    reference = [comparison.arm(full).benchmarks[b.task].mean if full else 0.0 for b in suite]
    relative = all(value > 0 for value in reference)
    divisor = reference if relative else [b.scale for b in suite]
    figure, axes = _figure(8.2, 6.2, polar=True)
    angles = [2 * math.pi * k / len(suite) for k in range(len(suite))]
    shown = list(zip(comparison.arms, _colors(comparison), MARKERS * (1 + len(comparison.arms) // len(MARKERS))))[
        :MAX_RADAR_ARMS
    ]
    for arm, color, marker in shown:
        values = [100 * arm.benchmarks[b.task].mean / d for b, d in zip(suite, divisor)]
        style = {
            "color": color,
            "marker": marker,
            "markersize": 4,
            "lw": 1.8,
            "ls": "--" if arm.arm in (full, comparison.baseline) else "-",
        }
        axes.plot([*angles, 0.0], [*values, values[0]], label=_name(arm).replace("\n", ", "), **style)
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, [b.label for b in suite])
    for label, angle in zip(axes.get_xticklabels(), angles):
        label.set_horizontalalignment(
            "center" if abs(math.sin(angle)) < 0.1 else "left" if math.sin(angle) > 0 else "right"
        )
    axes.set_ylim(0, None)
    axes.set_rlabel_position(180 / len(suite))
    axes.set_title(
        f"Score by capability in % of the {'full-data arm' if relative else 'highest possible score'}",
        fontsize=11,
        pad=26,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.12, 1.08), frameon=False, fontsize=9)
    return _save(figure, path)


def _figure(width: float, height: float, polar: bool = False) -> tuple[Any, Any]:
    """A figure that belongs to no window and to no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="polar" if polar else None)
    axes.set_axisbelow(True)
    if not polar:
        axes.grid(axis="y", color="#D9D9D9", lw=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colors(comparison: Comparison) -> Sequence[str]:
    """Baseline grey, full data dark, the others from the palette in order."""
    rest = iter(PALETTE * (1 + len(comparison.arms) // len(PALETTE)))
    fixed = {comparison.baseline: BASELINE, comparison.full_arm: FULL}
    return [fixed.get(arm.arm) or next(rest) for arm in comparison.arms]


def _name(arm: ArmResult) -> str:
    return f"{arm.arm}\n{arm.budget}" if arm.budget else arm.arm


def _level_lines(figure: Any, axes: Any, comparison: Comparison) -> None:
    """Horizontal lines at the mean chance level and, where it was measured for all benchmarks, the mean blind level."""
    for name, levels, style in (("chance", comparison.chance, ":"), ("blind guess", comparison.blind, "--")):
        values = [levels[b.task] for b in comparison.suite]
        if None not in values:
            level = 100 * sum(value / b.scale for value, b in zip(values, comparison.suite)) / len(values)
            axes.axhline(level, color="white", lw=2.6, alpha=0.7, zorder=4)  # keeps the line visible on dark bars
            axes.axhline(level, color="black", lw=1.1, ls=style, zorder=5, label=f"{name} {level:.1f}")
    _legend(figure, 2)


def _legend(figure: Any, columns: int) -> None:
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=min(columns, 6), frameon=False, fontsize=9)


def _save(figure: Any, path: Path) -> Path:
    """PNG without the library's version in it, so that equal content is equal bytes; under its name only when whole."""
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    temporary.rename(path)
    return path
