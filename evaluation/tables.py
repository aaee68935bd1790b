"""A comparison as Markdown tables. Nothing is typed by hand: every cell is a value of the comparison."""

from collections.abc import Sequence

from evaluation.aggregate import ArmResult, Comparison, Spread
from evaluation.stats import std
from evaluation.suite import Suite

CONTROL = ("shuffled", "grounded gain")
"""Columns that say what of the mean is there without the right image."""


def comparison_table(comparison: Comparison) -> str:
    """Arms x benchmarks (mean ± std over seeds, in % of the benchmark's scale), then mean, shuffled-image mean, grounded
    gain, /FULL, >Rand, difference.

    Two last rows give the chance level and what a blind guess (best answer without the image) reaches.
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
            *(_spread(arm.benchmarks[b.task], 100 / b.scale) for b in suite),
            _spread(arm.mean),
            *_control(arm),
            *_relative(arm, len(suite)),
        ]
        for arm in comparison.arms
    ]
    rows += [[name, "", "", *cells, average, *[""] * 5] for name, cells, average in _levels(comparison)]
    return markdown(header, rows)


def compact_table(comparison: Comparison) -> str:
    """One row for each arm without the single benchmarks; /FULL with its range when any one benchmark is left out. Two last
    rows as in the full table."""
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
        full, above, difference = _relative(arm, len(comparison.suite))
        low_high = "–" if arm.full_range is None else f"{arm.full_range[0]:.1f} to {arm.full_range[1]:.1f}"
        rows.append(
            [
                _name(arm),
                arm.budget,
                _seeds(arm),
                _spread(arm.mean),
                *_control(arm),
                full,
                low_high,
                above,
                difference,
                "–" if arm.p is None else f"{arm.p:.3f}",
                f"{100 * arm.unparsed:.1f} %",
            ]
        )
    rows += [[name, "", "", average, *[""] * (len(header) - 4)] for name, _, average in _levels(comparison)]
    return markdown(header, rows)


def grounding_table(comparison: Comparison) -> str:
    """Three rows for each arm that was asked with shuffled images: score, shuffled-image score, grounded gain by benchmark,
    all three of the repetitions that were asked both ways; then chance and blind level. Empty where no arm was asked."""
    suite, rows = comparison.suite, []
    for arm in (arm for arm in comparison.arms if arm.shuffled):
        scores = _before_shuffling(arm, suite)
        for name, values in (("score", scores), ("shuffled", arm.shuffled), ("grounded gain", arm.grounded)):
            rows.append(
                [
                    _name(arm),
                    name,
                    *_percents([values[b.task] for b in suite], suite, "+" if values is arm.grounded else ""),
                ]
            )
    if not rows:
        return ""
    rows += [[name, "", *cells, average] for name, cells, average in _levels(comparison)]
    return markdown(["arm", "what", *(b.label for b in suite), "mean"], rows)


def pool_table(comparison: Comparison) -> str:
    """One row for each arm: its mean on each pool, and behind it the difference to the baseline on that pool; then the
    standard deviation between the pools of both. Empty for a single pool."""
    if len(comparison.pools) < 2:
        return ""
    rows = []
    for arm in comparison.arms:
        differences = [f" ({value:+.1f})" for value in arm.pool_differences] or [""] * len(arm.pool_means)
        means = [f"{value:.1f}{difference}" for value, difference in zip(arm.pool_means, differences)]
        between = f"{std(arm.pool_differences):.1f}" if arm.pool_differences else "–"
        rows.append([_name(arm), arm.budget, *means, f"{std(arm.pool_means):.1f}", between])
    pools = [f"pool {seed} (difference)" for seed in comparison.pools]
    return markdown(["arm", "budget", *pools, "std of means", "std of differences"], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned; pipes in cells are escaped."""
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


def _spread(spread: Spread, factor: float = 1.0) -> str:
    return f"{factor * spread.mean:.1f}" + ("" if spread.std is None else f" ± {factor * spread.std:.1f}")


def _relative(arm: ArmResult, n_benchmarks: int) -> list[str]:
    """The cells /FULL, >Rand and difference."""
    full = (
        "–"
        if arm.full is None
        else f"{arm.full:.1f}" + ("" if arm.full_std is None else f" ± {arm.full_std:.1f}")
    )
    above = "–" if arm.above is None else f"{arm.above}/{n_benchmarks}"
    d = arm.difference
    return [full, above, "–" if d is None else f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"]


def _difference_title(comparison: Comparison) -> str:
    if not comparison.baselines:
        return "difference [95 %]"
    named = comparison.baselines[0] if len(comparison.baselines) == 1 else "the baseline of its budget"
    return f"difference to {named} [95 %]"


def _levels(comparison: Comparison) -> list[tuple[str, list[str], str]]:
    """Name, cells by benchmark and mean of the levels without seeds: chance and, where it was measured, blind."""
    found = []
    for name, levels in (("chance", comparison.chance), ("blind", comparison.blind)):
        if any(value is not None for value in levels.values()):
            *cells, average = _percents([levels[b.task] for b in comparison.suite], comparison.suite)
            found.append((name, cells, average))
    return found


def _percents(values: Sequence[float | None], suite: Suite, sign: str = "") -> list[str]:
    """Cells in % of the scales and their mean, which is a dash unless every benchmark has a value."""
    percent = [
        None if value is None else 100 * value / b.scale for value, b in zip(values, suite, strict=True)
    ]
    average = None if None in percent else sum(percent) / len(percent)
    return ["–" if value is None else f"{value:{sign}.1f}" for value in [*percent, average]]


def _before_shuffling(arm: ArmResult, suite: Suite) -> dict[str, float | None]:
    """Scores of the repetitions that were asked with shuffled images too, from what these lost."""
    return {
        b.task: None
        if (lost := arm.grounded[b.task]) is None
        else arm.shuffled[b.task] + (lost if b.direction == "higher" else -lost)
        for b in suite
    }


def _control(arm: ArmResult) -> list[str]:
    """The cells of CONTROL."""
    gain = arm.grounded_mean
    signed = "–" if gain is None else f"{'+' if gain.mean >= 0 else ''}{_spread(gain)}"
    return ["–" if arm.shuffled_mean is None else _spread(arm.shuffled_mean), signed]
