"""A comparison as Markdown tables. Every cell is a value of the comparison; nothing is typed by hand."""

from collections.abc import Mapping, Sequence

from evaluation.comparison import ArmResult, Comparison, Spread
from evaluation.statistics.basic import Interval, std
from evaluation.suite import Suite

DASH = "–"
"""The cell of an unknown value."""
CONTROL = ("shuffled", "grounded gain")
"""Columns on how much of the mean is reached without the right image."""


def comparison_table(comparison: Comparison) -> str:
    """Arms x benchmarks (mean ± std over seeds, in % of the scale), then the columns over all benchmarks.

    These are mean, shuffled-image mean, grounded gain, /FULL, >Rand and difference. The last two rows are the
    chance level and the blind level (the best answer without the image).
    """
    suite = comparison.suite
    header = [
        "arm",
        "budget",
        "seeds",
        *(b.label for b in suite),
        "mean",
        *CONTROL,
        "/FULL",
        ">Rand",
        _difference_title(comparison),
    ]
    rows = [
        [
            _name(arm),
            arm.budget,
            _seeds(arm),
            *(spread_cell(arm.benchmarks[b.name], 100 / b.scale) for b in suite),
            spread_cell(arm.mean),
            *_control(arm),
            *_relative(arm, len(suite)),
        ]
        for arm in comparison.arms
    ]
    rows += [[name, "", "", *cells, average, *[""] * 5] for name, cells, average in _levels(comparison)]
    return markdown(header, rows)


def compact_table(comparison: Comparison) -> str:
    """One row per arm without single benchmarks; /FULL also as its range when one benchmark is left out.

    The last two rows are those of `comparison_table`.
    """
    header = [
        "arm",
        "budget",
        "seeds",
        "mean",
        *CONTROL,
        "/FULL",
        "/FULL without one benchmark",
        ">Rand",
        _difference_title(comparison),
        "p (Welch)",
        "unparsed",
    ]
    rows = []
    for arm in comparison.arms:
        relative, above, difference = _relative(arm, len(comparison.suite))
        ends = arm.relative_range
        rows.append(
            [
                _name(arm),
                arm.budget,
                _seeds(arm),
                spread_cell(arm.mean),
                *_control(arm),
                relative,
                DASH if ends is None else f"{ends[0]:.1f} to {ends[1]:.1f}",
                above,
                difference,
                DASH if arm.p is None else f"{arm.p:.3f}",
                f"{100 * arm.unparsed:.1f} %",
            ]
        )
    rows += [[name, "", "", average, *[""] * (len(header) - 4)] for name, _, average in _levels(comparison)]
    return markdown(header, rows)


def grounding_table(comparison: Comparison) -> str:
    """By benchmark: score, shuffled-image score and grounded gain of the arms evaluated with shuffled images.

    All three are of the repetitions evaluated both ways. The last rows are chance and blind level. Empty if
    no arm was evaluated with shuffled images.
    """
    suite = comparison.suite
    rows: list[list[str]] = []
    for arm in comparison.arms:
        if not arm.shuffled or not arm.grounded:
            continue
        for name, values, sign in (
            ("score", _before_shuffling(arm.shuffled, arm.grounded, suite), ""),
            ("shuffled", arm.shuffled, ""),
            ("grounded gain", arm.grounded, "+"),
        ):
            rows.append([_name(arm), name, *_percents([values[b.name] for b in suite], suite, sign)])
    if not rows:
        return ""
    rows += [[name, "", *cells, average] for name, cells, average in _levels(comparison)]
    return markdown(["arm", "what", *(b.label for b in suite), "mean"], rows)


def pool_table(comparison: Comparison) -> str:
    """One row per arm: its mean and its difference to the baseline on each pool, and their std over pools.

    Empty for a single pool.
    """
    if len(comparison.pools) < 2:
        return ""
    rows = []
    for arm in comparison.arms:
        differences = [f" ({value:+.1f})" for value in arm.pool_differences] or [""] * len(arm.pool_means)
        pairs = zip(arm.pool_means, differences, strict=True)
        means = [f"{value:.1f}{difference}" for value, difference in pairs]
        between = f"{std(arm.pool_differences):.1f}" if arm.pool_differences else DASH
        rows.append([_name(arm), arm.budget, *means, f"{std(arm.pool_means):.1f}", between])
    pools = [f"pool {seed} (difference)" for seed in comparison.pools]
    return markdown(["arm", "budget", *pools, "std of means", "std of differences"], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left-aligned, the others right-aligned, pipes in cells escaped."""
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} cells")
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return (
        "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def _name(arm: ArmResult) -> str:
    return f"{arm.arm} (targeted)" if arm.targeted else arm.arm


def _seeds(arm: ArmResult) -> str:
    return str(arm.units) if arm.units == arm.runs else f"{arm.units} ({arm.runs} runs)"


def spread_cell(spread: Spread, factor: float = 1.0) -> str:
    """The mean, and ± the standard deviation if it is known."""
    return f"{factor * spread.mean:.1f}" + ("" if spread.std is None else f" ± {factor * spread.std:.1f}")


def _relative(arm: ArmResult, n_benchmarks: int) -> list[str]:
    """The cells /FULL, >Rand and difference."""
    relative = DASH if arm.relative is None else spread_cell(Spread(arm.relative, arm.relative_std))
    above = DASH if arm.above is None else f"{arm.above}/{n_benchmarks}"
    return [relative, above, difference_cell(arm.difference)]


def difference_cell(difference: Interval | None) -> str:
    """A difference with its interval."""
    d = difference
    return DASH if d is None else f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"


def _difference_title(comparison: Comparison) -> str:
    if not comparison.baselines:
        return "difference [95 %]"
    named = comparison.baselines[0] if len(comparison.baselines) == 1 else "the baseline of its budget"
    return f"difference to {named} [95 %]"


def _levels(comparison: Comparison) -> list[tuple[str, list[str], str]]:
    """(name, cells by benchmark, mean) of the levels without seeds: chance and, if measured, blind."""
    rows = []
    for name in ("chance", "blind"):
        levels = comparison.levels(name)
        if any(value is not None for value in levels):
            *cells, average = _percents(levels, comparison.suite)
            rows.append((name, cells, average))
    return rows


def _percents(values: Sequence[float | None], suite: Suite, sign: str = "") -> list[str]:
    """Cells in % of the scales and, last, their mean, which is a dash unless every benchmark has a value."""
    percents = [
        None if value is None else 100 * value / b.scale for value, b in zip(values, suite, strict=True)
    ]
    known = [value for value in percents if value is not None]
    average = sum(known) / len(known) if len(known) == len(percents) else None
    return [DASH if value is None else f"{value:{sign}.1f}" for value in [*percents, average]]


def _before_shuffling(
    shuffled: Mapping[str, float | None], grounded: Mapping[str, float | None], suite: Suite
) -> dict[str, float | None]:
    """Scores with the right images, of the repetitions that were evaluated with shuffled images as well."""
    scores: dict[str, float | None] = {}
    for b in suite:
        score, lost = shuffled[b.name], grounded[b.name]
        if score is None or lost is None:
            scores[b.name] = None
        else:
            scores[b.name] = score + (lost if b.direction == "higher" else -lost)
    return scores


def _control(arm: ArmResult) -> list[str]:
    """The cells of CONTROL."""
    gain = arm.grounded_mean
    signed = DASH if gain is None else f"{'+' if gain.mean >= 0 else ''}{spread_cell(gain)}"
    return [DASH if arm.shuffled_mean is None else spread_cell(arm.shuffled_mean), signed]
