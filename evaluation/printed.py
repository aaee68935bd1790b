"""The result of an evaluation on the screen: a table of the benchmarks, and all that qualifies its values."""

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evaluation.suite import Benchmark, Suite

if TYPE_CHECKING:
    from rich.table import Table

Entry = Mapping[str, Any]
"""A benchmark's entry of summary.json."""
DASH = "-"


def print_result(
    suite: Suite, summary: Mapping[str, Any], judged: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Print a summary. `judged`: what `evaluation.judging.judge_suite` returned, for costs and advice."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(_table(suite, summary["benchmarks"]))
    for line in [
        mean_line(suite, summary["benchmarks"]),
        *_missing(summary["benchmarks"], judged or {}),
        *_incomplete(suite, summary),
        *_costs(judged or {}),
        *_deviations(summary["protocol"]),
    ]:
        print(line)


def _table(suite: Suite, entries: Mapping[str, Entry]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    shuffled = any(entry.get("shuffled") is not None for entry in entries.values())
    table = Table()
    table.add_column("benchmark", overflow="fold")
    headings = ("value", "± stderr", "of", "chance", "n", "unparsed", "truncated", "lenient")
    for heading in (*headings, *(["shuffled"] if shuffled else [])):
        table.add_column(heading, justify="right")
    for benchmark in suite:
        cells = _cells(benchmark, entries[benchmark.name])
        table.add_row(escape(benchmark.label), *cells[: len(table.columns) - 1])
    for name in (name for name in entries if name not in {b.name for b in suite}):
        table.add_row(escape(name), "not judged")
    return table


def _cells(benchmark: Benchmark, entry: Entry) -> list[str]:
    if "missing" in entry:
        return ["missing"]
    numbers = [_number(benchmark, entry[key]) for key in ("value", "stderr", "chance", "lenient", "shuffled")]
    rates = [f"{entry[key] / entry['n']:.1%}" for key in ("unparsed", "truncated")]
    value, error, chance, lenient, shuffled = numbers
    return [value, error, f"{benchmark.scale:g}", chance, f"{entry['n']:,}", *rates, lenient, shuffled]


def _number(benchmark: Benchmark, value: float | None) -> str:
    """A value in the metric's scale, to a hundredth of a percent of it or finer."""
    if value is None:
        return DASH
    return f"{value:.4f}" if benchmark.scale < 10 else f"{value:.2f}"


def mean_line(suite: Suite, entries: Mapping[str, Entry]) -> str:
    """The mean over benchmarks in % of their scales; none if one is missing."""
    if any("missing" in entries[benchmark.name] for benchmark in suite):
        return "no mean: a benchmark is missing"
    shares = [benchmark.percent(entries[benchmark.name]["value"]) for benchmark in suite]
    mean = sum(shares) / len(shares)
    return f"mean over {len(shares)} benchmark{'s'[: len(shares) > 1]}, in % of the scale: {mean:.2f}"


def _missing(entries: Mapping[str, Entry], judged: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, entry in entries.items():
        if "missing" in entry:
            reason = judged.get(name, {}).get("advice", entry["missing"])
            yield f"missing: {reason if str(reason).startswith(name) else f'{name}: {reason}'}"


def _incomplete(suite: Suite, summary: Mapping[str, Any]) -> Iterator[str]:
    """What makes values others than those of the whole benchmarks."""
    if (limit := summary["protocol"]["limit"]) is not None:
        yield f"limit: only the first {limit:,} questions of each task, no values of the benchmarks"
        return
    for benchmark in suite:
        entry = summary["benchmarks"][benchmark.name]
        found = questions_of(benchmark, entry)
        if found is not None and benchmark.expected not in (None, found):
            yield (
                f"incomplete data: {benchmark.name} has {found:,} questions instead of "
                f"{benchmark.expected:,}: not comparable with published values"
            )


def questions_of(benchmark: Benchmark, entry: Entry) -> int | None:
    """Number of questions, counted as the suite's `expected`; None if the benchmark is missing."""
    if "missing" in entry:
        return None
    return int(entry["units"] if benchmark.unit.modulo else entry["n"])  # rotated copies count once


def _costs(judged: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, own in judged.items():
        if cost := own.get("cost"):
            money = f", ${cost['usd']:.4f}" if cost["usd"] else ""
            yield (
                f"judge of {name}: {cost['requests']:,} requests ({cost['retried']:,} retries), "
                f"{cost['input_tokens']:,} input tokens, {cost['output_tokens']:,} output tokens{money}, "
                f"{cost['invalid_replies']:,} replies without a verdict"
            )


def _deviations(protocol: Mapping[str, Any]) -> Iterator[str]:
    if deviations := protocol.get("deviations"):
        yield "deviations from lmms-eval:"
        yield from (f"  {name}: {'; '.join(own)}" for name, own in deviations.items())
