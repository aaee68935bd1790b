"""What the selections chose: sizes, lengths, shares in common, mixes of sources, styles and capabilities."""

from collections.abc import Sequence
from statistics import fmean

from evaluation.comparison import Comparison
from evaluation.context import Context, Subset
from evaluation.figures.arms import mean_mix
from evaluation.report.table import Cell, Column, Row, Table, number_cell, text_cell

POOL = "pool"
"""Title of the column of the whole pool."""
_ARM = Column("arm", ("arm",), left=True, foreign=True)


def subsets_of(context: Context) -> dict[str, list[Subset]]:
    """The subsets of each arm, over pools and seeds."""
    by_arm: dict[str, list[Subset]] = {}
    for subset in context.subsets:
        by_arm.setdefault(subset.arm, []).append(subset)
    return by_arm


def subsets_table(comparison: Comparison, context: Context) -> Table:
    """Mean size of each arm's subsets, and the length of a sample beside that of its baseline."""
    by_arm = subsets_of(context)
    known_leaks = any(subset.leaked is not None for subset in context.subsets)
    counts = {"samples": "samples", "text_tokens": "text tokens", "image_tokens": "image tokens"}
    counts |= {"leaked": "repeat a question"} if known_leaks else {}
    baselines = {arm.arm: arm.baseline for arm in comparison.arms}
    columns = (
        _ARM,
        Column("subsets", ("subsets",)),
        *(Column(title, (name,)) for name, title in counts.items()),
        Column("tokens a sample", ("tokens_a_sample",)),
        Column("x baseline", ("length_ratio",)),
    )
    rows = []
    for arm, own in by_arm.items():
        length, base = _length(own), _length(by_arm.get(baselines.get(arm) or "", ()))
        cells = [_mean([getattr(subset, name) for subset in own]) for name in counts]
        ratio = length / base if length and base else None
        rows.append(
            Row(
                (
                    text_cell(arm),
                    Cell(str(len(own)), (len(own),)),
                    *(number_cell(value, "{:,.0f}".format) for value in cells),
                    number_cell(length, "{:,.1f}".format),
                    number_cell(ratio, "{:.2f}".format),
                )
            )
        )
    return Table("subsets", "Subsets", columns, tuple(rows), _SUBSETS)


_SUBSETS = (
    "Mean over pools and seeds. Tokens a sample: text and image together; x baseline: relative to those "
    "of the arm's baseline. A random subset of as many samples is no fair baseline where this is far from "
    "1: see the token-matched control."
)


def _mean(counts: Sequence[int | None]) -> float | None:
    """The mean of counts; None if one is unknown."""
    known = [count for count in counts if count is not None]
    return fmean(known) if known and len(known) == len(counts) else None


def _length(subsets: Sequence[Subset]) -> float | None:
    """Mean tokens of a sample, text and image together; None if not known of every subset."""
    totals = [
        (subset.text_tokens + subset.image_tokens) / subset.samples
        for subset in subsets
        if subset.text_tokens is not None and subset.image_tokens is not None and subset.samples
    ]
    return fmean(totals) if totals and len(totals) == len(subsets) else None


def overlap_table(context: Context) -> Table:
    """Arms x arms: share of the row's subset that is also in the column's."""
    names = list(dict.fromkeys(name for pair in context.overlap for name in pair))
    columns = (_ARM, *(Column(name, (name,), foreign=True) for name in names))
    rows = [
        Row((text_cell(a), *(number_cell(context.overlap.get((a, b)), _percent) for b in names)))
        for a in names
    ]
    return Table(
        "overlap", "Share of a subset that is also in another", columns, tuple(rows), "Of the row's subset."
    )


def mix_table(context: Context, kind: str | None = None) -> Table:
    """Shares by source, style and capability of each arm's subsets (means) and of the pool, where known.

    `kind`: of this kind alone; None for all. Rows of a kind by falling share in the first arm.
    """
    by_arm = subsets_of(context)
    kinds = [kind] if kind else mix_kinds(context)
    has_pool = any(context.pool_mix.get(kind) for kind in kinds)
    columns = (
        Column("kind", ("kind",), left=True, foreign=True),
        Column("name", ("name",), left=True, foreign=True),
        *(Column(arm, (arm,), foreign=True) for arm in by_arm),
        *([Column(POOL, (POOL,))] if has_pool else []),
    )
    rows: list[Row] = []
    for kind in kinds:
        shares = [mean_mix([subset.mix.get(kind, {}) for subset in own]) for own in by_arm.values()]
        shares += [dict(context.pool_mix.get(kind, {}))] if has_pool else []
        names = {name for own in shares for name in own}
        rows += [
            Row(
                (
                    text_cell(kind),
                    text_cell(name),
                    *(number_cell(own.get(name, 0.0), _percent) for own in shares),
                )
            )
            for name in sorted(names, key=lambda name: (-shares[0].get(name, 0.0), name))
        ]
    return Table(
        "mix",
        "Mixes of the subsets",
        columns,
        tuple(rows),
        "Shares of a subset's samples, mean over subsets.",
    )


def mix_kinds(context: Context) -> list[str]:
    """The kinds of which a subset has shares, in the order of their first appearance."""
    return list(dict.fromkeys(kind for subset in context.subsets for kind, mix in subset.mix.items() if mix))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
