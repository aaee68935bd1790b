"""Means: one row for each arm, its mean over benchmarks with every repetition as a dot."""

from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.comparison import ArmResult, Comparison
from evaluation.figures import style
from evaluation.figures.arms import is_control, label

LEVELS = (("chance", (0, (1.2, 1.2))), ("blind", (0, (4, 1.5))))
"""Levels that need no training (names for `Comparison.levels`), and the line style of each."""
NAMES = 2.4


@style.in_style
def draw(comparison: Comparison) -> Any:
    """Sorted by mean within each budget. Levels that every benchmark has are lines, named in the legend."""
    arms = list(_sorted(comparison.arms))
    several = len({arm.budget for arm in arms}) > 1
    names = [label(a, NAMES, end=f", {a.budget}" if several else "") for a in arms]
    numbers = [_number(arm) for arm in arms]
    handles = _handles(comparison, arms)
    labels = [text for _, text in handles]
    left, right = style.widest(names) + 0.14, style.widest([*numbers, HEAD], style.SMALL) + 0.16
    bottom = 0.36 + style.legend_height(labels, style.PAGE)
    figure = style.sheet(style.PAGE, style.ROW * (len(arms) + 1.6) + bottom + 0.1)
    axes = style.place(figure, left, right, bottom, 0.1)
    axes.set_ylim(len(arms) - 0.4, -1.5)
    _rows(axes, comparison, arms)
    _levels(axes, comparison)
    axes.grid(axis="x")
    axes.set_yticks(range(len(arms)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    n = len(comparison.suite)
    axes.set_xlabel(f"mean of {n} benchmarks, %" if n > 1 else "score, %")
    _column(axes, numbers, right)
    style.legend(figure, [handle for handle, _ in handles], labels)
    return figure


HEAD = "mean ± std"


def _sorted(arms: Sequence[ArmResult]) -> Iterator[ArmResult]:
    """Budgets in their order, the best of each first."""
    budgets = list(dict.fromkeys(arm.budget for arm in arms))
    yield from sorted(arms, key=lambda arm: (budgets.index(arm.budget), -arm.mean.mean))


def _number(arm: ArmResult) -> str:
    std = "" if arm.mean.std is None else f" ± {arm.mean.std:.1f}"
    return f"{arm.mean.mean:.1f}{std}"


def _rows(axes: Any, comparison: Comparison, arms: Sequence[ArmResult]) -> None:
    """Ranges, repetitions and means, each kind as one artist."""
    rows = range(len(arms))
    ends = [min(a.unit_means) for a in arms], [max(a.unit_means) for a in arms]
    axes.hlines(rows, *ends, color=style.GREY, lw=0.7, zorder=2)
    dots = [(unit, y) for y, arm in enumerate(arms) for unit in arm.unit_means]
    axes.plot([unit for unit, _ in dots], [y for _, y in dots], **DOTS)
    for looks in ROLES.values():
        own = [(arm.mean.mean, y) for y, arm in enumerate(arms) if _role(comparison, arm) is looks]
        axes.plot([mean for mean, _ in own], [y for _, y in own], ls="none", zorder=4, **looks)
    shuffled = [(arm.shuffled_mean.mean, y) for y, arm in enumerate(arms) if arm.shuffled_mean]
    axes.plot([mean for mean, _ in shuffled], [y for _, y in shuffled], **SHUFFLED)


DOTS: dict[str, Any] = {
    "ls": "none",
    "marker": "o",
    "ms": 3.2,
    "mfc": "white",
    "mec": style.INK,
    "mew": 0.5,
    "zorder": 3,
}
SHUFFLED: dict[str, Any] = {
    "ls": "none",
    "marker": "D",
    "ms": 3.6,
    "mfc": "white",
    "mec": style.INK,
    "mew": 0.7,
    "zorder": 4,
}
ROLES: dict[str, dict[str, Any]] = {
    "arm": {"marker": "o", "ms": 5.5, "mfc": style.PALETTE[0], "mec": style.INK, "mew": 0.5},
    "control": {"marker": "s", "ms": 5, "mfc": "#C9C9C9", "mec": style.INK, "mew": 0.5},
    "reference": {"marker": "^", "ms": 5.5, "mfc": style.INK, "mec": style.INK, "mew": 0.5},
}


def _role(comparison: Comparison, arm: ArmResult) -> dict[str, Any]:
    if arm.arm == comparison.reference_arm:
        return ROLES["reference"]
    return ROLES["control" if is_control(comparison, arm) else "arm"]


def mean_level(comparison: Comparison, name: str) -> float | None:
    """Mean over benchmarks of a level, in %; None unless every benchmark has it."""
    pairs = zip(comparison.levels(name), comparison.suite, strict=True)
    shares = [b.percent(value) for value, b in pairs if value is not None]
    return sum(shares) / len(shares) if len(shares) == len(comparison.suite) else None


def _levels(axes: Any, comparison: Comparison) -> None:
    """Lines below everything else, through no text."""
    for name, dashes in LEVELS:
        if (level := mean_level(comparison, name)) is not None:
            axes.axvline(level, color=style.INK, lw=0.9, ls=dashes, zorder=1.5)


def _column(axes: Any, numbers: Sequence[str], right: float) -> None:
    """The numbers, right of the axes."""
    from matplotlib.transforms import blended_transform_factory

    inches = axes.figure.get_size_inches()[0] * axes.get_position().width
    across = blended_transform_factory(axes.transAxes, axes.transData)
    for y, text in ((-1, HEAD), *enumerate(numbers)):
        color = "#555555" if y < 0 else style.INK
        axes.text(
            1 + (right - 0.06) / inches,
            y,
            text,
            ha="right",
            va="center_baseline",
            transform=across,
            fontsize=style.SMALL,
            color=color,
        )


def _handles(comparison: Comparison, arms: Sequence[ArmResult]) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    roles = [_role(comparison, arm) for arm in arms]
    reference = comparison.reference_arm or ""
    words = {
        "arm": "mean of an arm",
        "control": "of a control",
        "reference": f"of {style.shorten(reference, 1.2)}",
    }
    entries = [(Line2D([], [], ls="none", **own), words[name]) for name, own in ROLES.items() if own in roles]
    each = "one pool and seed" if len(comparison.pools) > 1 else "one seed"
    entries.append((Line2D([], [], **DOTS), each))
    if any(arm.shuffled_mean for arm in arms):
        entries.append((Line2D([], [], **SHUFFLED), "shuffled images"))
    for name, dashes in LEVELS:
        if (level := mean_level(comparison, name)) is not None:
            entries.append((Line2D([], [], color=style.INK, lw=0.9, ls=dashes), f"{name} level {level:.1f}"))
    return entries
