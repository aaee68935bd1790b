"""The report of one experiment as Markdown: a pure function of its results, without times or machine names.

render(comparison, context, figures)     # the text of report.md
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from curation.printable import inert, inert_markdown, visible
from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.figures.style_map import KIND as JOINT
from evaluation.report.caveats import caveats, has_no_scale
from evaluation.report.conditions import SHOWN, benchmark_section
from evaluation.report.leaks import leak_section
from evaluation.report.summary import arm_sentences, paragraph
from evaluation.report.table import DASH, Table, as_markdown, markdown
from evaluation.report.tables.benchmarks import benchmarks_table, differences_table, grounding_table
from evaluation.report.tables.controls import controls_table
from evaluation.report.tables.costs import costs_table
from evaluation.report.tables.pools import pools_table
from evaluation.report.tables.results import results_table
from evaluation.report.tables.robustness import power_table, robustness_table
from evaluation.report.tables.rows import by_difference, grouped, shortened, shown_arms
from evaluation.report.tables.subsets import mix_kinds, mix_table, overlap_table, subsets_table

MAX_SOURCES = 50
"""Rows of the tables of sources and mixes; a pool may have thousands."""
MAX_COLUMNS = 12
"""Arms side by side in the tables of overlap and mixes."""
PLACES = {
    "Results": ("forest", "budget"),
    "Scores": ("means", "benchmarks", "radar"),
    "Costs": ("cost",),
    "Subsets": ("style_map", "overlap"),
}
"""Figures of each section; one that is not named stands in the first."""


def render(comparison: Comparison, context: Context, figures: Sequence[str] = ()) -> str:
    """The whole report; `figures` are the names of the files in figures/, without their suffix."""
    kept = shown_arms(comparison)
    sections: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("", lambda: _summary(comparison, context, kept)),
        ("Results", lambda: _results(comparison, kept)),
        ("Robustness", lambda: _tables([robustness_table(comparison)], kept)),
        ("Power", lambda: _tables([power_table(comparison)], kept)),
        ("Scores", lambda: _scores(comparison, kept)),
        ("Costs", lambda: _tables([costs_table(comparison, context)], kept)),
        ("Benchmarks", lambda: iter([benchmark_section(comparison)])),
        ("Leaks", lambda: iter([leak_section(comparison, kept)])),
        ("Pool", lambda: pool_tables(context)),
        ("Subsets", lambda: _subsets(comparison, context, kept)),
        ("Scorer", lambda: scorer_table(context)),
        ("Seconds by stage", lambda: seconds_table(context)),
        ("Protocol", lambda: protocol_table(comparison, context)),
        ("Notes", lambda: iter(["\n".join(f"- {visible(note)}" for note in context.notes)])),
    ]
    parts = [f"# {inert(context.title)}"]
    for heading, body in sections:
        if found := [text for part in body() if (text := part.strip())]:
            own = _images(figures, heading)
            parts.append("\n\n".join([*([f"## {heading}"] if heading else []), *own, *found]))
    return "\n\n".join(parts) + "\n"


def _images(figures: Sequence[str], heading: str) -> list[str]:
    """The pictures of a section."""
    placed = {name for names in PLACES.values() for name in names}
    own = [name for name in PLACES.get(heading, ()) if name in figures]
    if heading == "Results":
        own += [name for name in figures if name not in placed]
    return [f"![{name}](figures/{name}.png)" for name in own]


def _summary(comparison: Comparison, context: Context, kept: set[str] | None) -> Iterator[str]:
    """The first paragraph, why to be careful, and a sentence for each arm."""
    yield inert(paragraph(comparison, context))
    yield "\n".join(f"- {said.markdown}" for said in caveats(comparison, context))
    yield "\n".join(f"- {said.markdown}" for said in arm_sentences(comparison, kept))
    if kept is not None:
        yield (
            f"{len(kept):,} of {len(comparison.arms):,} arms are shown: the baselines, and of each group "
            "those of highest and lowest difference. All are in `tables/results.csv` and `report.html`."
        )


def _tables(tables: Sequence[Table], kept: set[str] | None) -> Iterator[str]:
    """Each table that has rows, with its notes."""
    for table in tables:
        if table.rows:
            yield as_markdown(shortened(table, kept))
            yield table.notes


def _results(comparison: Comparison, kept: set[str] | None) -> Iterator[str]:
    yield from _tables([results_table(comparison), controls_table(comparison)], kept)
    if len(comparison.pools) > 1:
        yield f"Everything was repeated on {len(comparison.pools)} pools."
        yield from _tables([pools_table(comparison)], kept)
    yield targeted_note(comparison)


def _scores(comparison: Comparison, kept: set[str] | None) -> Iterator[str]:
    yield from _tables([benchmarks_table(comparison), differences_table(comparison)], kept)
    grounding = grounding_table(comparison)
    yield from _tables([grounding], kept)
    yield shuffled_note(comparison)


def targeted_note(comparison: Comparison) -> str:
    """What it means that some arms are targeted; empty without such arms."""
    named = ", ".join(inert(arm.arm) for arm in comparison.arms if arm.targeted)
    return (
        f"Targeted ({named}): the selector saw validation items of the benchmarks' kind (none of the "
        "questions evaluated here); the other arms saw none. Part of what targeted arms gain over these is "
        "due to that knowledge; compare methods among targeted arms."
        if named
        else ""
    )


def shuffled_note(comparison: Comparison) -> str:
    """Why there are no scores with other questions' images, or dashes instead of some."""
    without = [inert(arm.arm) for arm in comparison.arms if arm.shuffled is None]
    if len(without) == len(comparison.arms):
        return "Not evaluated with shuffled images (`evaluation.shuffled: none`)."
    texts = [f"Not evaluated with shuffled images: {', '.join(without)}."] if without else []
    if alone := [
        inert(b.label)
        for b in comparison.suite
        if any(arm.shuffled and arm.shuffled[b.name] is None for arm in comparison.arms)
    ]:
        texts.append(
            f"{', '.join(alone)}: no two questions with images to swap, so these and the means over all "
            "benchmarks are dashes."
        )
    return " ".join(texts)


def pool_tables(context: Context) -> Iterator[str]:
    if context.pool:
        yield markdown(["pool", "value"], [[key, _number(value)] for key, value in context.pool.items()])
    if context.pool or context.quarantined:
        reasons = sorted(context.quarantined.items(), key=lambda item: (-item[1], item[0]))
        rows = [[reason, _number(count)] for reason, count in reasons]
        all_of_them = ["all", _number(sum(context.quarantined.values()))]
        yield markdown(["quarantined because", "samples"], [*rows, all_of_them])
    yield from _sources(context)


def _sources(context: Context) -> Iterator[str]:
    """By source: samples kept, taken out and flagged; the sources of which most was taken out come first."""
    columns = list(dict.fromkeys(name for counts in context.sources.values() for name in counts))
    lost = {
        source: sum(counts.values()) - counts.get("kept", 0) for source, counts in context.sources.items()
    }
    order = sorted(context.sources, key=lambda source: (-lost[source], source))
    shown = [source for source in order if lost[source]][:MAX_SOURCES]
    rows = [[inert_markdown(s), *(_number(context.sources[s].get(c, 0)) for c in columns)] for s in shown]
    if rows:
        yield markdown(["source", *columns], rows)
    if more := sum(1 for source in order if lost[source]) - len(shown):
        yield f"{more:,} more sources lost samples, fewer each."


def _subsets(comparison: Comparison, context: Context, kept: set[str] | None) -> Iterator[str]:
    """Sizes, shares in common, mixes; of many arms those of the highest differences side by side."""
    yield from _tables([subsets_table(comparison, context)], kept)
    ordered = [arm.arm for group in grouped(comparison).values() for arm in by_difference(group)]
    if context.overlap:
        overlap = overlap_table(context)
        names = _side_by_side(ordered, [column.title for column in overlap.columns[1:]])
        places = [k for k, column in enumerate(overlap.columns) if not k or column.title in names]
        yield as_markdown(shortened(overlap.only(places), names))
        yield overlap.notes + _left_out(len(overlap.columns) - 1, len(names), overlap.name)
    for kind in mix_kinds(context):
        if kind == JOINT:  # a matrix, too long for a table
            yield f"Shares of {JOINT} are in the figure and in `tables/mix.csv`."
        else:
            yield from _mix(context, kind, ordered)


def _mix(context: Context, kind: str, ordered: Sequence[str]) -> Iterator[str]:
    """Shares of one kind, for the arms that are shown side by side and the pool."""
    table = mix_table(context, kind)
    arms = list(dict.fromkeys(subset.arm for subset in context.subsets))
    names = _side_by_side(ordered, arms)
    places = [1, *(2 + k for k, arm in enumerate(arms) if arm in names)]
    places += range(2 + len(arms), len(table.columns))  # the pool
    shown = table.only(places)
    rows = [[cell.text for cell in row.cells] for row in shown.rows[:MAX_SOURCES]]
    header = [kind, *(inert(column.title) for column in shown.columns[1:])]
    yield markdown(header, [[inert_markdown(name), *cells] for name, *cells in rows])
    yield _left_out(len(arms), len(names), table.name).strip()
    if len(shown.rows) > MAX_SOURCES:
        yield f"{len(shown.rows) - MAX_SOURCES:,} more rows are in `tables/{table.name}.csv`."


def _side_by_side(ordered: Sequence[str], names: Sequence[str]) -> set[str]:
    """The arms that fit side by side, those of the highest differences first."""
    return set([name for name in ordered if name in names][:MAX_COLUMNS])


def _left_out(count: int, shown: int, name: str) -> str:
    """Where to find the arms that are not shown; empty if all are."""
    if shown == count:
        return ""
    return f" {shown} of {count} arms are shown; all are in `tables/{name}.csv`."


def scorer_table(context: Context) -> Iterator[str]:
    if not context.scorer:
        return
    columns = list(dict.fromkeys(key for values in context.scorer.values() for key in values))
    rows = [[name, *(_number(values.get(key)) for key in columns)] for name, values in context.scorer.items()]
    yield markdown(["capability", *columns], rows)
    correlations = [values.get("spearman") for values in context.scorer.values()]
    if known := [value for value in correlations if value is not None]:
        average = f"{sum(known) / len(known):.2f} ({len(known)} capabilities)"
        yield f"Mean Spearman correlation with the teacher on held-out labels: {average}."


def seconds_table(context: Context) -> Iterator[str]:
    if context.seconds:
        rows = [[stage, f"{seconds:.1f}"] for stage, seconds in context.seconds.items()]
        yield markdown(["stage", "seconds"], [*rows, ["all", f"{sum(context.seconds.values()):.1f}"]])


def protocol_table(comparison: Comparison, context: Context) -> Iterator[str]:
    settings = {
        **context.protocol,
        **{f"evaluation.{key}": value for key, value in comparison.protocol.items() if key not in SHOWN},
    }
    own = has_no_scale(context)
    kind = "the recipe's own" if own else "modified" if context.modified else "as frozen in the scale file"
    yield f"Protocol: {kind}."
    yield "" if own else "\n".join(f"- modified: `{visible(change)}`" for change in context.modified)
    yield markdown(["setting", "value"], [[k, _number(v)] for k, v in settings.items()])


def _number(value: Any) -> str:
    """A dash for None and NaN, thousands separators in integers, three decimals in fractions."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
