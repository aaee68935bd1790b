"""What a comparison says of leaks: samples of the pool that repeat questions or images of the benchmarks.

`Comparison.decontamination` holds

    state        drop: such samples were taken out of the pool; flag: they are in it; off: nobody looked
    suite, data  hashes of the suite and of its questions that the pool was compared with
    rows, of     samples that repeat a question, and samples of the pool, summed over the pools
    items        {benchmark: questions that are repeated}, of all pools together
    kinds        {kind of likeness: rows}; sources: {source: rows}
"""

from collections.abc import Iterator, Mapping
from typing import Any

from curation.printable import inert
from evaluation.comparison import Comparison
from evaluation.report.sentence import Sentence
from evaluation.report.table import as_markdown, markdown
from evaluation.report.tables.leaks import leaked_scores_table, leaks_table
from evaluation.report.tables.rows import shortened
from evaluation.report.words import counted, listed, verdict


def stamp(found: Mapping[str, Any]) -> Sentence | None:
    """One sentence on the state of the decontamination; None for a comparison that does not say."""
    state = found.get("state")
    return None if state is None else Sentence(f"decontamination: {state}", f": {_found(state, found)}.")


def _found(state: str, found: Mapping[str, Any]) -> str:
    if state == "off":
        return "nobody has looked whether samples of the pool repeat questions of the benchmarks"
    count = sum(found["items"].values())
    if not found["rows"]:
        return "no sample of the pool repeats a question of the benchmarks"
    share = f"{found['rows']:,} of {found['of']:,} samples ({100 * found['rows'] / found['of']:.2f} %)"
    if state == "drop":
        return (
            f"{share} repeated {count:,} questions of the benchmarks and were taken out of the pool before "
            "anything was selected"
        )
    return (
        f"{share} of the pool repeat {count:,} questions of the benchmarks; scores without these questions "
        "are below, under leaks"
    )


def leak_section(comparison: Comparison, kept: set[str] | None = None) -> str:
    """What is different without the repeated questions; empty where none is known to be repeated.

    `kept`: the arms to show, None for all.
    """
    other = comparison.without_leaks
    if other is None:
        return ""
    tables = [shortened(table, kept) for table in (leaks_table(comparison), leaked_scores_table(comparison))]
    return "\n\n".join(
        [
            *changed_claims(comparison, other),
            as_markdown(tables[0]).strip(),
            tables[0].notes,
            counts_table(comparison).strip(),
            *(f"{as_markdown(table)}\n{table.notes}" for table in tables[1:] if table.rows),
            *benchmarks_gone(comparison, other),
        ]
    )


def changed_claims(comparison: Comparison, other: Comparison) -> Iterator[str]:
    """Which claims are other ones without the repeated questions."""
    compared = [arm for arm in comparison.arms if arm.claim and arm.claim.verdict]
    if not compared:
        return
    changed = [
        f"{inert(arm.arm)} (from {verdict(arm.claim)} to {verdict(other.arm(arm.arm).claim)})"
        for arm in compared
        if arm.claim and verdict(arm.claim) != verdict(other.arm(arm.arm).claim)
    ]
    if changed:
        yield (
            f"Without the repeated questions, {counted(len(changed), 'claim')} of {len(compared)} would be "
            f"another: {listed(changed)}."
        )
    else:
        yield f"Without the repeated questions every claim is the same ({len(compared)})."


def counts_table(comparison: Comparison) -> str:
    """How many questions of each benchmark are repeated."""
    items = comparison.decontamination["items"]
    return markdown(
        ["benchmark", "questions", "repeated"],
        [
            [inert(b.label), f"{comparison.n[b.name]:,}", f"{items[b.name]:,}"]
            for b in comparison.suite
            if items.get(b.name)
        ],
    )


def benchmarks_gone(comparison: Comparison, other: Comparison) -> Iterator[str]:
    left = {benchmark.name for benchmark in other.suite}
    if gone := [inert(benchmark.label) for benchmark in comparison.suite if benchmark.name not in left]:
        yield f"{', '.join(gone)}: all questions are repeated; left out of the means without."
