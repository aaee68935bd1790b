"""Why the values of a report may not be comparable with others: protocol, data, decontamination."""

from collections.abc import Iterator

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.report.conditions import warnings
from evaluation.report.leaks import stamp
from evaluation.report.sentence import Sentence


def caveats(comparison: Comparison, context: Context) -> list[Sentence]:
    """One sentence for each reason; empty for whole results of a frozen protocol without leaks."""
    found = [*_protocol(context), *warnings(comparison), *_few(comparison)]
    looked = stamp(comparison.decontamination)
    return [*found, looked] if looked else found


def has_no_scale(context: Context) -> bool:
    """Whether the recipe has no frozen settings that it could have modified."""
    return "scale" in context.protocol and context.protocol["scale"] is None


def _protocol(context: Context) -> Iterator[Sentence]:
    if has_no_scale(context):
        yield Sentence(
            "protocol: the recipe's own",
            " (no scale file is named): not comparable with results under another protocol, and kept out of "
            "paper tables.",
        )
    elif context.modified:
        yield Sentence(
            "protocol: modified",
            f" ({len(context.modified)} frozen settings overridden, listed below): not comparable with other "
            "results, and kept out of paper tables.",
        )


def _few(comparison: Comparison) -> Iterator[Sentence]:
    """What a suite of one benchmark cannot show."""
    if len(comparison.suite) == 1:
        yield Sentence(
            "one benchmark",
            f": everything is about {comparison.suite.benchmarks[0].label} alone; no benchmark can be left "
            "out to see what a difference rests on.",
        )
