"""The sections of the page in their order: sentences and tables, drawings beside what they show.

Everything of report.md is here, and for all arms, however many they are. Tables of arms come from the model
that CSV and LaTeX are written from; sections without arms from the Markdown itself (`page_markdown`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.report import leaks, markdown
from evaluation.report.conditions import benchmark_section
from evaluation.report.page_bars import Axis, bar, scale
from evaluation.report.page_markdown import parts
from evaluation.report.page_parts import Part, figure, sentences, table, text, with_drawings
from evaluation.report.summary import arm_sentences, caveats, paragraph
from evaluation.report.table import Table
from evaluation.report.tables import all_tables
from evaluation.report.tables.subsets import mix_kinds, mix_table

MAX_ROWS, MAX_COLUMNS = 500, 60
"""Of a mix or matrix that is larger the page shows this much and names the file that has all: a pool may have
thousands of sources, and 200 arms have 40,000 pairs."""


@dataclass(frozen=True)
class Section:
    """`parts`: what the template shows in order, see `evaluation.report.page_parts`."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Place:
    """Which drawings and which tables (their names) a section shows, in this order."""

    id: str
    title: str
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


PLACES = (
    Place("claims", "Claims", ("forest", "budget"), ("results", "controls", "pools")),
    Place("words", "Arm by arm"),
    Place("robustness", "Robustness", (), ("robustness",)),
    Place("power", "Power", (), ("power",)),
    Place("scores", "Scores", ("means", "benchmarks", "radar"), ("benchmarks", "differences", "grounding")),
    Place("costs", "Costs", ("cost",), ("costs",)),
    Place("subsets", "Subsets", ("style_map", "overlap"), ("subsets", "overlap", "mix")),
    Place("leaks", "Leaks", (), ("leaks", "leaked_scores")),
)


CAPTIONS = {
    "forest": "Differences to the baseline, with the interval that holds for all of them at once",
    "budget": "Score by budget, with the band of the random arms",
    "means": "Mean score of each arm, with its repetitions",
    "benchmarks": "Differences to the baseline by benchmark",
    "radar": "Scores of the named arms by benchmark",
    "cost": "Score and cost of selection and training",
    "style_map": "Capability by style: a subset beside the pool",
    "overlap": "Share of one arm's subset that is also in another's",
}
"""What a drawing shows; others are called by their names."""


def sections(comparison: Comparison, context: Context, figures: Sequence[Path]) -> list[Section]:
    """All sections that have something to show. `figures`: see `page.write_page`."""
    words = {arm.arm: _word(comparison, arm.arm) for arm in comparison.arms}
    tables = {one.name: one for one in all_tables(comparison, context)}
    drawn = {path.name: path for path in map(_stem, figures)}
    found = [Section("summary", "Summary", _summary(comparison, context))]
    for place in PLACES:
        own = [tables.pop(name) for name in place.tables if name in tables]
        shown = [*_figures([drawn.pop(name) for name in place.figures if name in drawn])]
        shown += _texts(place.id, comparison, words)
        for one in own:
            shown += _table(one, comparison, context, words)
        found.append(Section(place.id, place.title, shown))
    rest = [part for one in tables.values() for part in _table(one, comparison, context, words)]
    found.append(Section("more", "More", [*_figures(drawn.values()), *rest]))
    found += _without_arms(comparison, context)
    return [section for section in found if section.parts]


def _summary(comparison: Comparison, context: Context) -> list[Part]:
    """The first paragraph, and why to be careful."""
    cautions = caveats(comparison, context)
    return [text(paragraph(comparison, context), "lead"), *([sentences(cautions)] if cautions else [])]


def _table(
    shown: Table, comparison: Comparison, context: Context, words: Mapping[str, str]
) -> Iterator[Part]:
    """The table as parts: with bars for the claims, in pieces for the mixes."""
    if shown.name == "mix":
        for kind in mix_kinds(context):
            own = mix_table(context, kind)
            named = replace(own.only(range(1, len(own.columns))), title=f"{own.title}: {kind}")
            yield table(_cut(named), words)
    elif shown.name == "results":
        arms = [arm for arm in comparison.arms if arm.difference]
        axis = Axis.of(arms)
        after = next(k for k, column in enumerate(shown.columns) if column.names[0] == "corrected_low") + 1
        drawn = {arm.arm: bar(arm, axis) for arm in arms}
        part = table(shown, words)
        yield with_drawings(part, after, "intervals", scale(axis), drawn) if arms else part
        if arms:
            yield text(_BARS, "quiet")
    else:
        yield table(_cut(shown) if shown.name == "overlap" else shown, words)


_BARS = (
    "Intervals: dot, the difference; thin, the corrected interval, from which the claim follows; thick, the "
    "95 % interval of this difference alone; band, the margin within which arms are called equivalent. What "
    "goes over the end of the bar is cut off."
)


def _cut(shown: Table) -> Table:
    """The first rows and columns of a large table; its notes say so."""
    rows, columns = len(shown.rows), len(shown.columns)
    if rows <= MAX_ROWS and columns <= MAX_COLUMNS:
        return shown
    note = (
        f" The first {min(rows, MAX_ROWS)} of {rows:,} rows and {min(columns, MAX_COLUMNS)} of {columns:,} "
        f"columns are shown; all are in tables/{shown.name}.csv."
    )
    kept = shown.only(range(min(columns, MAX_COLUMNS)))
    return replace(kept, rows=kept.rows[:MAX_ROWS], notes=shown.notes + note)


def _texts(place: str, comparison: Comparison, words: Mapping[str, str]) -> Iterator[Part]:
    """Sentences above the tables of a section."""
    if place == "words" and (said := arm_sentences(comparison)):
        yield sentences(said, words)
    elif place == "claims":
        yield from parts(markdown.targeted_note(comparison))
    elif place == "scores":
        yield from parts(markdown.shuffled_note(comparison))
    elif place == "leaks":
        for said_of_leaks in _leak_texts(comparison):
            yield from parts(said_of_leaks)


def _leak_texts(comparison: Comparison) -> Iterator[str]:
    other = comparison.without_leaks
    if other is not None:
        yield from leaks.changed_claims(comparison, other)
        yield leaks.counts_table(comparison)
        yield from leaks.benchmarks_gone(comparison, other)


def _without_arms(comparison: Comparison, context: Context) -> Iterator[Section]:
    """The sections of report.md that are about no arm."""
    written = (
        ("benchmarks", "Benchmarks", [benchmark_section(comparison)]),
        ("pool", "Pool", markdown.pool_tables(context)),
        ("scorer", "Scorer", markdown.scorer_table(context)),
        ("seconds", "Seconds by stage", markdown.seconds_table(context)),
        ("protocol", "Protocol", markdown.protocol_table(comparison, context)),
    )
    for name, title, texts in written:
        yield Section(name, title, [part for one in texts for part in parts(one)])
    notes = [text(note) for note in context.notes]
    yield Section("notes", "Notes", notes)


def _figures(paths: Iterable[Path]) -> Iterator[Part]:
    """The drawings whose files are there, with their captions."""
    for path in paths:
        if drawing := figure(path, CAPTIONS.get(path.name, path.name.replace("_", " "))):
            yield drawing


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".svg", ".png", ".pdf") else path


def _word(comparison: Comparison, name: str) -> str:
    """What the filter of claims calls the claim on an arm; empty for an arm that is compared with none."""
    claim = comparison.arm(name).claim
    return "" if claim is None else claim.verdict or "no verdict"
