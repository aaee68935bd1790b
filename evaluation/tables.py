"""A comparison as Markdown tables. Nothing is typed by hand: every cell is a value of the comparison."""

from collections.abc import Sequence

from evaluation.aggregate import ArmResult, Comparison, Spread


def comparison_table(comparison: Comparison) -> str:
    """Arms x benchmarks (mean ± std over seeds, in % of the benchmark's scale), then mean, /FULL, >Rand, difference.

    Two last rows give the chance level and what a blind guess (best answer without the image) reaches.
    """
    suite = comparison.suite
    header = [
        "arm",
        "budget",
        "seeds",
        *(b.label for b in suite),
        "mean",
        "/FULL",
        ">Rand",
        _difference_title(comparison),
    ]
    rows = [
        [
            arm.arm,
            arm.budget,
            _seeds(arm),
            *(_spread(arm.benchmarks[b.task], 100 / b.scale) for b in suite),
            _spread(arm.mean),
            *_relative(arm, len(suite)),
        ]
        for arm in comparison.arms
    ]
    rows.append(_level("chance", [comparison.chance[b.task] for b in suite], comparison))
    if any(value is not None for value in comparison.blind.values()):
        rows.append(_level("blind", [comparison.blind[b.task] for b in suite], comparison))
    return markdown(header, rows)


def compact_table(comparison: Comparison) -> str:
    """One row for each arm without the single benchmarks; /FULL with its range when any one benchmark is left out."""
    header = [
        "arm",
        "budget",
        "seeds",
        "mean",
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
                arm.arm,
                arm.budget,
                _seeds(arm),
                _spread(arm.mean),
                full,
                low_high,
                above,
                difference,
                "–" if arm.p is None else f"{arm.p:.3f}",
                f"{100 * arm.unparsed:.1f} %",
            ]
        )
    return markdown(header, rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned; pipes in cells are escaped."""
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} cells")
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _seeds(arm: ArmResult) -> str:
    return str(arm.units) if arm.units == arm.runs else f"{arm.units} ({arm.runs} runs)"


def _spread(spread: Spread, factor: float = 1.0) -> str:
    return f"{factor * spread.mean:.1f}" + ("" if spread.std is None else f" ± {factor * spread.std:.1f}")


def _relative(arm: ArmResult, n_benchmarks: int) -> list[str]:
    """The cells /FULL, >Rand and difference."""
    full = "–" if arm.full is None else f"{arm.full:.1f}" + ("" if arm.full_std is None else f" ± {arm.full_std:.1f}")
    above = "–" if arm.above is None else f"{arm.above}/{n_benchmarks}"
    d = arm.difference
    return [full, above, "–" if d is None else f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"]


def _difference_title(comparison: Comparison) -> str:
    return f"difference to {comparison.baseline} [95 %]" if comparison.baseline else "difference [95 %]"


def _level(name: str, values: Sequence[float | None], comparison: Comparison) -> list[str]:
    """A row of levels without seeds; its mean only when every benchmark has a value."""
    percent = [None if value is None else 100 * value / b.scale for value, b in zip(values, comparison.suite)]
    known = [value for value in percent if value is not None]
    average = f"{sum(known) / len(known):.1f}" if len(known) == len(percent) else "–"
    return [name, "", "", *("–" if value is None else f"{value:.1f}" for value in percent), average, "", "", ""]
