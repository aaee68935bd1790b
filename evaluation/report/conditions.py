"""How a comparison's benchmarks were asked, read and scored: what the numbers of a report are.

Everything is read from the comparison: its suite, its protocol and what was counted over all answers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.comparison import Comparison
from evaluation.report.sentence import Sentence
from evaluation.report.table import DASH, markdown
from evaluation.suite import Benchmark

SHOWN = ("deviations", "judges", "not_judged", "imported")
"""Keys of the protocol that are lists or tables of their own, not settings with a short value."""


def benchmark_section(comparison: Comparison) -> str:
    """A table of the benchmarks, then how they were asked, the deviations from lmms-eval, and the judges."""
    parts = [_table(comparison), _LEGEND, _asked(comparison.protocol), *_lists(comparison)]
    return "\n\n".join(part for part in parts if part)


def warnings(comparison: Comparison) -> Iterator[Sentence]:
    """One sentence for each reason why values are no values of the whole suite."""
    if part := [_shortfall(comparison, b) for b in comparison.suite if _is_short(comparison, b)]:
        yield Sentence(
            "data: incomplete",
            f" ({'; '.join(part)} questions): not comparable with values on the whole benchmarks.",
        )
    if left_out := comparison.protocol.get("not_judged"):
        yield Sentence("not judged", f": {', '.join(left_out)}; left out of every arm's mean.")
    if comparison.protocol.get("imported"):
        yield Sentence(
            "imported",
            f": the answers were not made here ({comparison.protocol.get('engine')}), so nothing is known of "
            "how they were asked for.",
        )


def questions(comparison: Comparison, benchmark: Benchmark) -> int | None:
    """Number of questions asked, counted as the suite's `expected`; None if it is not known.

    Rotated copies of a question count once.
    """
    counts = comparison.units if benchmark.unit.modulo else comparison.n
    return counts.get(benchmark.name)


_LEGEND = (
    "Units are what values are sums and intervals are drawn over. Over the answers of all arms: unparsed, "
    "those that the uniform reading (one set of rules for all benchmarks) finds no value in; cut, those that "
    "reached their length limit; lenient, by how many points the uniform reading scores higher than the "
    "benchmark's own rules: a large number says that a form of answer is punished, not a wrong one."
)


def _table(comparison: Comparison) -> str:
    header = ["benchmark", "metric", "scale", "unit", "units", "questions", "of", "chance"]
    rows = [
        [
            b.label,
            b.official,
            f"{b.scale:,g}",
            b.unit.name,
            _count(comparison.units.get(b.name)),
            _count(questions(comparison, b)),
            _count(b.expected),
            f"{comparison.chance[b.name]:,.4g}",
            *_reading(comparison.reading.get(b.name), b),
        ]
        for b in comparison.suite
    ]
    return markdown([*header, "unparsed", "cut", "lenient"], rows)


def _reading(counted: Mapping[str, float | None] | None, benchmark: Benchmark) -> list[str]:
    """The cells unparsed, cut and lenient."""
    if not counted:
        return [DASH] * 3
    gap = counted["lenient"]
    points = DASH if gap is None else f"{100 * gap / benchmark.scale:+.1f}"
    return [f"{100 * (counted[key] or 0):.1f} %" for key in ("unparsed", "truncated")] + [points]


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _is_short(comparison: Comparison, benchmark: Benchmark) -> bool:
    asked = questions(comparison, benchmark)
    return asked is not None and benchmark.expected is not None and asked != benchmark.expected


def _shortfall(comparison: Comparison, benchmark: Benchmark) -> str:
    asked, expected = questions(comparison, benchmark), benchmark.expected
    return f"{benchmark.label} {_count(asked)} of {_count(expected)}"


def _asked(protocol: Mapping[str, Any]) -> str:
    """Engine, prompt form and number format of the answers; empty for results that do not say."""
    if not protocol.get("engine"):
        return ""
    forms = {"training": "as in training", "checkpoint": "by the checkpoint's own chat template"}
    template = protocol.get("template")
    return (
        f"Asked by the engine {protocol['engine']}, prompts {forms.get(str(template), template)} (template: "
        f"{template}), weights in {protocol.get('dtype')}, suite {protocol.get('suite')}, "
        f"lmms-eval {protocol.get('lmms_eval')}."
    )


def _lists(comparison: Comparison) -> Iterator[str]:
    """Deviations from lmms-eval's own tasks, judges, imported files: a list each, where there are any."""
    labels = {b.name: b.label for b in comparison.suite}
    deviations = comparison.protocol.get("deviations", {})
    if own := [f"- {labels[name]}: {text}." for name in labels for text in deviations.get(name, ())]:
        yield "\n".join(["Deviations from lmms-eval's own tasks:\n", *own])
    if judges := comparison.protocol.get("judges", {}):
        yield "\n".join(
            ["Judges:\n", *(f"- {labels.get(name, name)}: {_judge(own)}." for name, own in judges.items())]
        )
    if files := comparison.protocol.get("imported", {}):
        lines = [f"- {name}: {own}" for name, own in files.items()]
        yield "\n".join(["Imported files, by sha256:\n", *lines])


def _judge(own: Mapping[str, Any]) -> str:
    version = f" ({own['judge_version']})" if own.get("judge_version") else ""
    deviations = f"; {'; '.join(own['deviations'])}" if own.get("deviations") else ""
    return (
        f"{own['judge_model']}{version}, prompt {own['prompt']} version {own['prompt_version']}, up to "
        f"{own['attempts']} attempts{deviations}"
    )
