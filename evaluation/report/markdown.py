"""The report of one experiment as Markdown: a pure function of its results, without times or machine names.

write_report(comparison, context, out)     # report.md, comparison.json, means.png, benchmarks.png, radar.png
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.printable import inert_markdown
from evaluation.comparison import ArmResult, Comparison
from evaluation.context import Context, Subset
from evaluation.figures.comparison import draw_all
from evaluation.report.conditions import SHOWN, benchmark_section, warnings
from evaluation.report.leaks import leak_section, stamp
from evaluation.report.tables import (
    DASH,
    compact_table,
    comparison_table,
    grounding_table,
    markdown,
    pool_table,
)
from evaluation.statistics.basic import Interval

MAX_SOURCES = 50
"""Rows of the table of sources; a pool may have thousands."""


def write_report(comparison: Comparison, context: Context, out: Path) -> Path:
    """Write the figures, comparison.json and, last, report.md into `out`; returns the path of report.md."""
    out = Path(out)
    figures = draw_all(comparison, out)
    (out / "comparison.json").write_text(json.dumps(comparison.to_dict(), indent=1, sort_keys=True) + "\n")
    (out / "report.md").write_text(render(comparison, context, [figure.name for figure in figures]))
    return out / "report.md"


def render(comparison: Comparison, context: Context, figures: Sequence[str] = ()) -> str:
    """The whole report; `figures` are file names in the report's directory."""
    sections: list[tuple[str, Callable[[], str]]] = [
        ("", lambda: _summary(comparison, context)),
        ("Results", lambda: _results(comparison, figures)),
        ("Benchmarks", lambda: benchmark_section(comparison)),
        ("Leaks", lambda: leak_section(comparison)),
        ("Pool", lambda: _pool(context)),
        ("Subsets", lambda: _subsets(context)),
        ("Scorer", lambda: _scorer(context)),
        ("Seconds by stage", lambda: _seconds(context)),
        ("Protocol", lambda: _protocol(comparison, context)),
        ("Notes", lambda: "\n".join(f"- {note}" for note in context.notes)),
    ]
    parts = [f"# {context.title}"]
    for heading, body in sections:
        if text := body().strip():
            parts.append(f"## {heading}\n\n{text}" if heading else text)
    return "\n\n".join(parts) + "\n"


def _summary(comparison: Comparison, context: Context) -> str:
    """One sentence for each arm that has a baseline, after warnings about protocol and benchmarks."""
    lines = []
    if _has_no_scale(context):
        lines.append(
            "- **protocol: the recipe's own** (no scale file is named): not comparable with results under "
            "another protocol, and kept out of paper tables."
        )
    elif context.modified:
        lines.append(
            f"- **protocol: modified** ({len(context.modified)} frozen settings overridden, listed below): "
            "not comparable with other results, and kept out of paper tables."
        )
    lines += [f"- {warning}" for warning in warnings(comparison)]
    if sentence := stamp(comparison.decontamination):
        lines.append(f"- {sentence}")
    lines += [
        _verdict(arm, comparison.arm(arm.baseline), arm.difference, len(comparison.suite))
        for arm in comparison.arms
        if arm.difference and arm.baseline and arm.arm != comparison.reference_arm
    ]
    return "\n".join(lines)


def _has_no_scale(context: Context) -> bool:
    """Whether the recipe has no frozen settings that it could have modified."""
    return "scale" in context.protocol and context.protocol["scale"] is None


def _verdict(arm: ArmResult, base: ArmResult, d: Interval, n_benchmarks: int) -> str:
    """One sentence on an arm and its baseline; the verdict follows from the interval, not from the means."""
    word = "above" if d.low > 0 else "below" if d.high < 0 else "not clearly different from"
    relative = (
        f"; /FULL {arm.relative:.1f} % against {base.relative:.1f} %"
        if arm.relative is not None and base.relative is not None
        else ""
    )
    few = (
        " One side has a single seed: the interval does not include the noise of training."
        if min(arm.units, base.units) < 2
        else ""
    )
    return (
        f"- **{arm.arm}** ({arm.budget}{', targeted' if arm.targeted else ''}) is {word} **{base.arm}** "
        f"({base.budget}): {arm.mean.mean:.1f} against {base.mean.mean:.1f}, difference {d.value:+.1f} "
        f"points (95 % interval {d.low:+.1f} to {d.high:+.1f}), above it on {arm.above} of {n_benchmarks} "
        f"benchmarks{relative}.{few}"
    )


def _results(comparison: Comparison, figures: Sequence[str]) -> str:
    legend = (
        "Scores in % of each benchmark's scale, mean ± standard deviation over seeds. /FULL: mean over "
        "benchmarks of score / full-data score (the definition of mmSSR, arXiv 2503.13383). >Rand: number "
        "of benchmarks above the baseline's mean. Intervals: bootstrap over seeds within each arm and over "
        "questions within each benchmark, the same questions for both arms; not corrected for the number of "
        "arms. p: Welch's test over seeds. Unparsed: see below, under benchmarks."
    )
    if len(comparison.pools) > 1:
        legend += (
            f" Everything was repeated on {len(comparison.pools)} pools: means and ± are over all pools and "
            "seeds; pools, which both arms share, are the outermost level of the intervals (see "
            "evaluation/statistics/basic.py). No p is given, since seeds of one pool are not independent. "
            "Facts about pools and mixes of subsets are means over pools."
        )
    if any(level is not None for level in comparison.levels("blind")):
        legend += " Blind: best guess without the image, from the most frequent answers of the pool."
    legend += _control_legend(comparison) + _targeted_legend(comparison)
    images = "\n\n".join(f"![{Path(name).stem}]({name})" for name in figures)
    tables = [
        compact_table(comparison),
        images,
        comparison_table(comparison),
        pool_table(comparison),
        grounding_table(comparison),
    ]
    return "\n\n".join(part for part in (*tables, legend) if part)


def _targeted_legend(comparison: Comparison) -> str:
    """What it means that some arms are targeted; empty without such arms."""
    named = ", ".join(arm.arm for arm in comparison.arms if arm.targeted)
    return (
        f" Targeted ({named}): the selector saw validation items of the benchmarks' kind (none of the "
        "questions evaluated here); the other arms saw none. Part of what targeted arms gain over these is "
        "due to that knowledge; compare methods among targeted arms."
        if named
        else ""
    )


def _control_legend(comparison: Comparison) -> str:
    """What the columns on shuffled images mean, and why some of their cells are dashes."""
    text = (
        " Chance: expected score of a random guess. Shuffled: score when every question is asked with the "
        "image of another question of its benchmark. Grounded gain: score - shuffled over the same "
        "repetitions, the value of the right image."
    )
    without = [arm.arm for arm in comparison.arms if arm.shuffled is None]
    if len(without) == len(comparison.arms):
        return text + " Not evaluated here (`evaluation.shuffled: none`), hence the dashes."
    if without:
        text += f" Not evaluated for {', '.join(without)}, hence the dashes."
    if alone := [
        b.label
        for b in comparison.suite
        if any(arm.shuffled and arm.shuffled[b.name] is None for arm in comparison.arms)
    ]:
        text += (
            f" {', '.join(alone)}: no two questions with images to swap, so these and the means over all "
            "benchmarks are dashes."
        )
    return text


def _pool(context: Context) -> str:
    facts = (
        markdown(["pool", "value"], [[key, _number(value)] for key, value in context.pool.items()])
        if context.pool
        else ""
    )
    reasons = sorted(context.quarantined.items(), key=lambda item: (-item[1], item[0]))
    rows = [[reason, _number(count)] for reason, count in reasons] + [
        ["all", _number(sum(context.quarantined.values()))]
    ]
    quarantine = (
        markdown(["quarantined because", "samples"], rows) if context.pool or context.quarantined else ""
    )
    return "\n".join(part for part in (facts, quarantine, _sources(context)) if part)


def _sources(context: Context) -> str:
    """By source: samples kept, taken out and flagged; the sources of which most was taken out come first."""
    if not context.sources:
        return ""
    columns = list(dict.fromkeys(name for counts in context.sources.values() for name in counts))
    lost = {
        source: sum(counts.values()) - counts.get("kept", 0) for source, counts in context.sources.items()
    }
    order = sorted(context.sources, key=lambda source: (-lost[source], source))
    shown = [source for source in order if lost[source]][:MAX_SOURCES]
    rows = [[inert_markdown(s), *(_number(context.sources[s].get(c, 0)) for c in columns)] for s in shown]
    more = sum(1 for source in order if lost[source]) - len(shown)
    note = f"\n{more:,} more sources lost samples, fewer each.\n" if more else ""
    return markdown(["source", *columns], rows) + note if rows else ""


def _subsets(context: Context) -> str:
    if not context.subsets:
        return ""
    by_arm = {
        arm: [s for s in context.subsets if s.arm == arm]
        for arm in dict.fromkeys(s.arm for s in context.subsets)
    }
    columns = {"samples": "samples", "text_tokens": "text tokens", "image_tokens": "image tokens"}
    if any(subset.leaked is not None for subset in context.subsets):
        columns["leaked"] = "repeat a question"
    rows = [
        [arm, str(len(own)), *(_mean_count([getattr(s, what) for s in own]) for what in columns)]
        for arm, own in by_arm.items()
    ]
    parts = [markdown(["arm", "subsets", *columns.values()], rows)]
    if context.overlap:
        names = list(dict.fromkeys(name for pair in context.overlap for name in pair))
        shares = [
            [f"{100 * context.overlap[a, b]:.1f} %" if (a, b) in context.overlap else DASH for b in names]
            for a in names
        ]
        parts.append(
            markdown(
                ["share of the subset that is also in", *names],
                [[a, *row] for a, row in zip(names, shares, strict=True)],
            )
        )
    for kind in dict.fromkeys(kind for subset in context.subsets for kind, mix in subset.mix.items() if mix):
        parts.append(_mix(kind, context.subsets))
    return "\n".join(parts)


def _mean_count(counts: Sequence[int | None]) -> str:
    """Rounded mean of counts; a dash if one is unknown."""
    known = [count for count in counts if count is not None]
    return DASH if len(known) < len(counts) else _number(round(sum(known) / len(known)))


def _mix(kind: str, subsets: Sequence[Subset]) -> str:
    """Shares of one kind, mean over pools and seeds of each arm; rows by falling share in the first arm."""
    arms: dict[str, list[Mapping[str, float]]] = {}
    for subset in subsets:
        arms.setdefault(subset.arm, []).append(subset.mix.get(kind, {}))
    names = {name for mixes in arms.values() for mix in mixes for name in mix}
    share = {
        arm: {name: sum(mix.get(name, 0.0) for mix in mixes) / len(mixes) for name in names}
        for arm, mixes in arms.items()
    }
    first = share[next(iter(arms))]
    rows = [
        [inert_markdown(name), *(f"{100 * share[arm][name]:.1f} %" for arm in arms)]
        for name in sorted(names, key=lambda name: (-first[name], name))
    ]
    return markdown([kind, *arms], rows)


def _scorer(context: Context) -> str:
    if not context.scorer:
        return ""
    columns = list(dict.fromkeys(key for values in context.scorer.values() for key in values))
    rows = [[name, *(_number(values.get(key)) for key in columns)] for name, values in context.scorer.items()]
    correlations = [values.get("spearman") for values in context.scorer.values()]
    known = [value for value in correlations if value is not None]
    table = markdown(["capability", *columns], rows)
    if not known:
        return table
    average = f"{sum(known) / len(known):.2f} ({len(known)} capabilities)"
    return f"{table}\nMean Spearman correlation with the teacher on held-out labels: {average}.\n"


def _seconds(context: Context) -> str:
    if not context.seconds:
        return ""
    rows = [[stage, f"{seconds:.1f}"] for stage, seconds in context.seconds.items()]
    return markdown(["stage", "seconds"], [*rows, ["all", f"{sum(context.seconds.values()):.1f}"]])


def _protocol(comparison: Comparison, context: Context) -> str:
    settings = {
        **context.protocol,
        **{f"evaluation.{key}": value for key, value in comparison.protocol.items() if key not in SHOWN},
    }
    own = _has_no_scale(context)
    kind = "the recipe's own" if own else "modified" if context.modified else "as frozen in the scale file"
    line = f"Protocol: {kind}."
    changed = "" if own else "\n".join(f"- modified: `{change}`" for change in context.modified)
    return "\n\n".join(
        part
        for part in (
            line,
            changed,
            markdown(["setting", "value"], [[k, _number(v)] for k, v in settings.items()]),
        )
        if part
    )


def _number(value: Any) -> str:
    """A dash for None and NaN, thousands separators in integers, three decimals in fractions."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
