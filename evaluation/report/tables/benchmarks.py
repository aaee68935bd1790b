"""Tables with a column for each benchmark: scores, differences, and scores without the right image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from evaluation.comparison import ArmResult, Comparison, Spread
from evaluation.report.marks import marks
from evaluation.report.table import DASH, Cell, Column, Row, Table, number_cell, text_cell
from evaluation.report.tables.cells import signed, spread
from evaluation.report.tables.rows import ARM, BUDGET, Of, arm_cell, by_arm, grouped, names_of
from evaluation.suite import Benchmark, Suite


def benchmarks_table(comparison: Comparison) -> Table:
    """Arms x benchmarks: mean ± standard deviation in % of the scale, the mean, chance and blind level."""
    suite = comparison.suite
    marked = {b.name: marks(comparison, b) for b in suite}

    def column(b: Benchmark) -> Of:
        return Of(
            Column(b.label, (b.name, f"{b.name}_std"), foreign=True),
            lambda arm: spread(arm.benchmarks[b.name], 100 / b.scale, marked[b.name].get(arm.arm, "")),
        )

    means = marks(comparison)
    columns = [
        *names_of(comparison),
        *(column(b) for b in suite),
        Of(Column("mean", ("mean", "mean_std")), lambda arm: spread(arm.mean, 1.0, means.get(arm.arm, ""))),
        *_without_the_image(comparison),
    ]
    table = by_arm("benchmarks", "Scores by benchmark", comparison, columns, _BENCHMARKS)
    return replace(table, rows=(*table.rows, *_levels(comparison, table.columns)))


def _without_the_image(comparison: Comparison) -> list[Of]:
    """Shuffled-image mean and grounded gain, if any arm was evaluated with shuffled images."""
    if not any(arm.shuffled_mean or arm.grounded_mean for arm in comparison.arms):
        return []
    return [
        Of(
            Column("shuffled", ("shuffled", "shuffled_std")),
            lambda arm: spread(arm.shuffled_mean) if arm.shuffled_mean else Cell(DASH, (None, None)),
        ),
        Of(
            Column("grounded gain", ("grounded", "grounded_std")),
            lambda arm: _gain(arm.grounded_mean) if arm.grounded_mean else Cell(DASH, (None, None)),
        ),
    ]


def _gain(of: Spread) -> Cell:
    """A gain has a sign, that of zero too."""
    cell = spread(of)
    return replace(cell, text=f"{'+' if of.mean >= 0 else ''}{cell.text}")


_BENCHMARKS = (
    "In % of each benchmark's scale, mean ± standard deviation over repetitions. Chance: expected score of a "
    "random guess. Blind: best guess without the image, from the most frequent answers of the pool. Bold as "
    "in the results, by the corrected interval of the benchmark's own difference."
)


def differences_table(comparison: Comparison) -> Table:
    """Compared arms x benchmarks: difference to the baseline in points, positive where the arm is better."""

    def column(b: Benchmark) -> Of:
        names = [f"{b.name}{end}" for end in ("", "_low", "_high", "_corrected_low", "_corrected_high")]
        return Of(
            Column(b.label, tuple(names), foreign=True),
            lambda arm: signed(arm.benchmark_differences.get(b.name)),
        )

    ends = ("difference", "low", "high", "corrected_low", "corrected_high")
    columns = [
        *names_of(comparison),
        Of(_AGAINST, lambda arm: Cell(arm.baseline or DASH, (arm.baseline,))),
        *(column(b) for b in comparison.suite),
        Of(Column("mean", ends, foreign=True), lambda arm: signed(arm.difference)),
    ]
    return by_arm(
        "differences", "Differences by benchmark", comparison, columns, _DIFFERENCES, compared_only=True
    )


_AGAINST = Column("against", ("baseline",), left=True, foreign=True)
_DIFFERENCES = (
    "In points of each benchmark's scale, positive where the arm is better. *: the corrected interval "
    "excludes 0. A claim is made of the mean alone; single benchmarks show where it comes from."
)


def grounding_table(comparison: Comparison) -> Table:
    """By benchmark: score, score with another question's image, and what the right image is worth.

    All three are of the repetitions evaluated both ways. The last rows are chance and blind level. No rows if
    no arm was evaluated with shuffled images.
    """
    suite = comparison.suite
    columns = (
        ARM,
        BUDGET,
        Column("what", ("what",), left=True),
        *(Column(b.label, (b.name,), foreign=True) for b in suite),
        Column("mean", ("mean",)),
    )
    rows: list[Row] = []
    for group, arms in grouped(comparison).items():
        for arm in arms:
            rows += [Row(cells, group) for cells in _grounding_cells(arm, suite)]
    levels = _levels(comparison, columns) if rows else ()
    return Table("grounding", "Scores without the right image", columns, (*rows, *levels), _GROUNDING)


def _grounding_cells(arm: ArmResult, suite: Suite) -> Iterator[tuple[Cell, ...]]:
    """The cells of an arm's three rows; none if it was not evaluated with shuffled images."""
    if not arm.shuffled or not arm.grounded:
        return
    for name, values, sign in (
        ("score", _before_shuffling(arm.shuffled, arm.grounded, suite), ""),
        ("shuffled", arm.shuffled, ""),
        ("grounded gain", arm.grounded, "+"),
    ):
        cells = _percents([values[b.name] for b in suite], suite, sign)
        yield arm_cell(arm), text_cell(arm.budget), text_cell(name), *cells


_GROUNDING = (
    "Shuffled: score when every question is asked with the image of another question of its benchmark. "
    "Grounded gain: score - shuffled over the same repetitions, the value of the right image."
)


def _levels(comparison: Comparison, columns: Sequence[Column]) -> Iterator[Row]:
    """Rows of the levels without seeds, chance and, if measured, blind: benchmarks and their mean alone."""
    first_benchmark = comparison.suite.benchmarks[0].name
    before = next(k for k, column in enumerate(columns) if column.names[0] == first_benchmark)
    for name in ("chance", "blind"):
        levels = comparison.levels(name)
        if any(value is not None for value in levels):
            cells = _percents(levels, comparison.suite)
            head = [Cell("", (None,) * len(column.names)) for column in columns[1:before]]
            first = Cell(name, (name, *[""] * (len(columns[0].names) - 1)))
            wide = [
                replace(cell, values=(cell.values[0], *[None] * (len(column.names) - 1)))
                for cell, column in zip(cells, columns[before : before + len(cells)], strict=True)
            ]
            last = [Cell("", (None,) * len(column.names)) for column in columns[before + len(cells) :]]
            yield Row((first, *head, *wide, *last), "levels")


def _percents(values: Sequence[float | None], suite: Suite, sign: str = "") -> list[Cell]:
    """Cells in % of the scales and, last, their mean, which is a dash unless every benchmark has a value.

    `sign` "+": they are gains, of which the mean is plain; else scores, see `Benchmark.percent`.
    """
    pairs = list(zip(values, suite, strict=True))
    percents = [None if value is None else 100 * value / b.scale for value, b in pairs]
    counted = percents if sign else [None if value is None else b.percent(value) for value, b in pairs]
    known = [value for value in counted if value is not None]
    average = sum(known) / len(known) if len(known) == len(counted) else None
    return [number_cell(value, f"{{:{sign}.1f}}".format) for value in [*percents, average]]


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
            scores[b.name] = score + b.sign * lost
    return scores
