"""Figures of a comparison: means of the arms, differences by benchmark, single benchmarks, radar.

Drawn without a display; equal content gives equal bytes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curation import atomic
from evaluation.comparison import ArmResult, Comparison
from evaluation.suite import Suite

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe & Ito's colours, distinguishable with a colour vision deficiency."""
BASELINE_COLOR, REFERENCE_COLOR = "#8C8C8C", "#303030"
MARKERS = "osD^vP"
MAX_RADAR_ARMS = 6
MAX_BAR_ARMS = 10
"""More bars side by side cannot be distinguished; draw_differences then shows the single benchmarks."""
LEVELS = (("chance", ":"), ("blind", "--"))
"""Levels without seeds (names for `Comparison.levels`), and the line style of each."""
SHUFFLED = {
    "marker": "D",
    "color": "white",
    "edgecolor": "black",
    "linewidth": 0.9,
    "zorder": 5,
    "label": "shuffled images",
}


def draw_all(comparison: Comparison, out: Path) -> list[Path]:
    """Draw the figures into `out` and return their paths.

    They are means.png; differences.png if there is a baseline; benchmarks.png for up to MAX_BAR_ARMS arms;
    radar.png for three benchmarks or more.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    figures = [draw_means(comparison, out / "means.png")]
    if _compared(comparison):
        figures.append(draw_differences(comparison, out / "differences.png"))
    if len(comparison.arms) <= MAX_BAR_ARMS:
        figures.append(draw_benchmarks(comparison, out / "benchmarks.png"))
    if len(comparison.suite) > 2:
        figures.append(draw_radar(comparison, out / "radar.png"))
    return figures


def draw_means(comparison: Comparison, path: Path) -> Path:
    """One bar per arm: mean over benchmarks in % ± std, seeds as dots, shuffled images as diamonds."""
    arms, many = comparison.arms, len(comparison.arms) > MAX_BAR_ARMS
    figure, axes = _figure(max(4.8, (0.72 if many else 1.35) * len(arms) + 1.8), 4.6 if many else 4.2)
    for x, (arm, color) in enumerate(zip(arms, _colors(comparison), strict=True)):
        _mean_bar(axes, x, arm, color)
    _shuffled(axes, [(x - 0.2, a.shuffled_mean.mean) for x, a in enumerate(arms) if a.shuffled_mean], 34)
    _level_lines(figure, axes, comparison)
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if many else {}
    axes.set_xticks(
        range(len(arms)), [_name(arm).replace("\n", ", " if many else "\n") for arm in arms], **slanted
    )
    axes.set_ylim(0, min(108, 1.15 * max(max(arm.unit_means) + (arm.mean.std or 0) for arm in arms) + 1))
    axes.set_ylabel(f"mean of {len(comparison.suite)} benchmarks (%)")
    each = "pool and seed" if len(comparison.pools) > 1 else "seed"
    axes.set_title(f"Mean score by arm (bar: mean, line: ± std, dot: one {each})", fontsize=10)
    return save_figure(figure, path)


def _mean_bar(axes: Any, x: int, arm: ArmResult, color: str) -> None:
    """One bar of `draw_means` with its error bar, dots and number."""
    axes.bar(x, arm.mean.mean, width=0.62, color=color, zorder=2)
    if arm.units > 1:
        style = {"fmt": "none", "capsize": 6, "ecolor": "black", "elinewidth": 1.4, "zorder": 4}
        axes.errorbar(x, arm.mean.mean, yerr=arm.mean.std, **style)
    beside = [x + 0.13 + 0.12 * k / max(arm.units - 1, 1) for k in range(arm.units)]
    axes.scatter(beside, arm.unit_means, s=20, color="white", edgecolor="black", linewidth=0.9, zorder=3)
    top = max(*arm.unit_means, arm.mean.mean + (arm.mean.std or 0))
    axes.annotate(
        f"{arm.mean.mean:.1f}", (x, top), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=10
    )


def draw_differences(comparison: Comparison, path: Path) -> Path:
    """Differences to the baseline in points (positive: better), by arm (rows) and benchmark (columns).

    Rows are the arms that have a baseline, without the reference arm, grouped by budget. Bold: 0 is outside
    the 95 % interval.
    """
    suite, compared = comparison.suite, _compared(comparison)
    budgets = list(dict.fromkeys(arm.budget for arm in compared))
    # stable: the order of the arms within a budget stays
    compared.sort(key=lambda arm: budgets.index(arm.budget))
    cells = [_difference_cells(arm, suite) for arm in compared]
    reach = max(1.0, *(abs(value) for row in cells for value, _ in row))
    figure, axes = _figure(2.6 + 0.62 * (len(suite) + 1), 1.7 + 0.34 * len(compared))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    picture = axes.imshow(
        [[value for value, _ in row] for row in cells], cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto"
    )
    for y, row in enumerate(cells):
        for x, (value, clear) in enumerate(row):
            color, weight = "white" if abs(value) > 0.6 * reach else "black", "bold" if clear else "normal"
            text = {"ha": "center", "va": "center", "fontsize": 8, "color": color, "fontweight": weight}
            axes.text(x, y, f"{value:+.1f}", **text)
    for y in (y for y in range(1, len(compared)) if compared[y].budget != compared[y - 1].budget):
        axes.axhline(y - 0.5, color="black", lw=1.2)
    axes.axvline(len(suite) - 0.5, color="black", lw=1.2)
    labels = [*(b.label for b in suite), "mean"]
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(len(compared)), [f"{_name(arm)} − {arm.baseline}".replace("\n", ", ") for arm in compared]
    )
    axes.tick_params(length=0)
    axes.set_title(
        "Difference to the baseline in points (bold: 95 % interval without 0)", fontsize=10, loc="left"
    )
    figure.colorbar(picture, ax=axes, fraction=0.025, pad=0.01).outline.set_visible(False)
    return save_figure(figure, path)


def _difference_cells(arm: ArmResult, suite: Suite) -> list[tuple[float, bool]]:
    """(difference, whether 0 is outside its interval) by benchmark and of the mean; positive is better."""
    intervals = [(arm.benchmark_differences[b.name], 1 if b.direction == "higher" else -1) for b in suite] + (
        [(arm.difference, 1)] if arm.difference else []
    )
    return [(sign * d.value, d.low > 0 or d.high < 0) for d, sign in intervals]


def draw_benchmarks(comparison: Comparison, path: Path) -> Path:
    """A group of bars per benchmark: one bar per arm with ± std over seeds, shuffled images as a diamond.

    Lines show the chance and the blind level.
    """
    suite, arms = comparison.suite, comparison.arms
    figure, axes = _figure(max(7.0, 0.2 * len(suite) * (len(arms) + 1.2)), 4.4)
    width = 0.84 / len(arms)
    for k, (arm, color) in enumerate(zip(arms, _colors(comparison), strict=True)):
        values = [100 * arm.benchmarks[b.name].mean / b.scale for b in suite]
        errors = [100 * (arm.benchmarks[b.name].std or 0) / b.scale for b in suite]
        at = [x - 0.42 + width * (k + 0.5) for x in range(len(suite))]
        axes.bar(at, values, width=0.92 * width, color=color, label=_name(arm).replace("\n", ", "), zorder=2)
        if arm.units > 1:
            axes.errorbar(
                at, values, yerr=errors, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5, zorder=3
            )
        scores = [(arm.shuffled or {}).get(b.name) for b in suite]
        points = zip(at, scores, suite, strict=True)
        _shuffled(axes, [(x, 100 * score / b.scale) for x, score, b in points if score is not None], 12)
    for name, style in LEVELS:
        for x, (b, level) in enumerate(zip(suite, comparison.levels(name), strict=True)):
            if level is not None:
                _outlined(axes, [x - 0.46, x + 0.46], [100 * level / b.scale] * 2, name, style)
    axes.set_xticks(
        range(len(suite)), [b.label for b in suite], rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.6, len(suite) - 0.4)
    axes.set_ylim(0, None)
    axes.set_ylabel("score (%)")
    _legend(figure, len(arms) + 3)
    return save_figure(figure, path)


def draw_radar(comparison: Comparison, path: Path) -> Path:
    """One axis per benchmark, with the chance and the blind level (clipped if far above every arm).

    In % of the reference arm (full data) if its scores are all above 0, else in % of the benchmark's scale.
    """
    suite, reference = comparison.suite, comparison.reference_arm
    scores = [comparison.arm(reference).benchmarks[b.name].mean if reference else 0.0 for b in suite]
    relative = all(value > 0 for value in scores)
    divisor = scores if relative else [b.scale for b in suite]
    figure, axes = _figure(8.2, 6.2, polar=True)
    angles = [2 * math.pi * k / len(suite) for k in range(len(suite))]
    shown = zip(comparison.arms[:MAX_RADAR_ARMS], _colors(comparison), MARKERS, strict=False)
    for arm, color, marker in shown:
        values = [100 * arm.benchmarks[b.name].mean / d for b, d in zip(suite, divisor, strict=True)]
        looks: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "markersize": 4,
            "lw": 1.8,
            "ls": "--" if arm.arm in (reference, *comparison.baselines) else "-",
        }
        axes.plot([*angles, 0.0], [*values, values[0]], label=_name(arm).replace("\n", ", "), **looks)
    edge = axes.get_ylim()[1]  # taken before the levels are drawn, which must not shrink the arms
    for name, style in LEVELS:
        pairs = zip(comparison.levels(name), divisor, strict=True)
        values = [100 * level / d for level, d in pairs if level is not None]
        if len(values) == len(suite):
            _outlined(axes, [*angles, 0.0], [*values, values[0]], name, style)
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, [b.label for b in suite])
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        label.set_horizontalalignment(
            "center" if abs(math.sin(angle)) < 0.1 else "left" if math.sin(angle) > 0 else "right"
        )
    axes.set_ylim(0, edge)
    axes.set_rlabel_position(180 / len(suite))
    what = "capability" if all(b.capability for b in suite) else "benchmark"
    axes.set_title(
        f"Score by {what} in % of the {'full-data arm' if relative else 'highest possible score'}",
        fontsize=11,
        pad=26,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.12, 1.08), frameon=False, fontsize=9)
    return save_figure(figure, path)


def _figure(width: float, height: float, polar: bool = False) -> tuple[Any, Any]:
    """(figure, axes) independent of pyplot's windows and global state."""
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
    """The colour of each arm: baselines grey, the reference dark, the others from the palette in order."""
    rest = iter(PALETTE * (1 + len(comparison.arms) // len(PALETTE)))
    fixed = dict.fromkeys(comparison.baselines, BASELINE_COLOR)
    if comparison.reference_arm:
        fixed[comparison.reference_arm] = REFERENCE_COLOR
    return [fixed.get(arm.arm) or next(rest) for arm in comparison.arms]


def _compared(comparison: Comparison) -> list[ArmResult]:
    """The arms that have a baseline, without the reference arm."""
    return [arm for arm in comparison.arms if arm.baseline and arm.arm != comparison.reference_arm]


def _name(arm: ArmResult) -> str:
    return f"{arm.arm}\n{arm.budget}" if arm.budget else arm.arm


def _level_lines(figure: Any, axes: Any, comparison: Comparison) -> None:
    """Horizontal lines at the mean chance level and, if measured for all benchmarks, the mean blind level."""
    for name, style in LEVELS:
        pairs = zip(comparison.levels(name), comparison.suite, strict=True)
        shares = [value / b.scale for value, b in pairs if value is not None]
        if len(shares) == len(comparison.suite):
            level = 100 * sum(shares) / len(shares)
            # A wider white line below keeps the black one visible on dark bars.
            axes.axhline(level, color="white", lw=2.6, alpha=0.7, zorder=4)
            axes.axhline(level, color="black", lw=1.1, ls=style, zorder=5, label=f"{name} {level:.1f}")
    _legend(figure, 3)


def _shuffled(axes: Any, points: Sequence[tuple[float, float]], size: float) -> None:
    """Diamonds at (x, score in %)."""
    if points:
        axes.scatter(*zip(*points, strict=True), s=size, **SHUFFLED)


def _outlined(axes: Any, x: Sequence[float], y: Sequence[float], name: str, style: str) -> None:
    """A black line that stays visible on dark bars."""
    from matplotlib.patheffects import withStroke

    stroke = [withStroke(linewidth=3.2, foreground="white")]
    axes.plot(x, y, color="black", lw=1.3, ls=style, zorder=4, label=name, path_effects=stroke)


def _legend(figure: Any, columns: int) -> None:
    """One entry per label below the axes, arms before levels."""
    from matplotlib.container import BarContainer

    handles, labels = figure.axes[0].get_legend_handles_labels()
    entries = sorted(
        dict(zip(labels, handles, strict=True)).items(),
        key=lambda entry: not isinstance(entry[1], BarContainer),
    )
    if entries:
        labels, handles = zip(*entries, strict=True)
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, 6), frameon=False, fontsize=9
        )


def save_figure(figure: Any, path: Path) -> Path:
    """Write a PNG without the library's version (equal content: equal bytes); renamed when complete."""
    with atomic.replacing(path) as temporary:
        figure.savefig(
            temporary, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None}
        )
    return path
