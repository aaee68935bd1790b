"""Capability by style: what the pool holds, and what an arm's subset holds more or less of."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.figures import cells, style
from evaluation.figures.arms import is_control, mean_mix

KIND = "capability x style"
"""The kind of `Subset.mix` and `Context.pool_mix` that is drawn; its names are "capability | style"."""
REACH = 3.0
"""Ratios of 1/8 and 8 have the darkest colours."""


def default_arm(comparison: Comparison, context: Context) -> str | None:
    """The first arm that is no control and whose subsets have the mix; None if there is none."""
    mixed = {subset.arm for subset in context.subsets if subset.mix.get(KIND)}
    if not context.pool_mix.get(KIND):
        return None
    arms = [a.arm for a in comparison.arms if a.arm in mixed and not is_control(comparison, a)]
    return arms[0] if arms else None


@style.in_style
def draw(context: Context, arm: str) -> Any:
    """Left: share of the pool in %. Right: the arm's share divided by the pool's, mean over its subsets.

    Raises ValueError if the pool or the arm's subsets have no mix of capability and style.
    """
    pool = _table(context.pool_mix.get(KIND, {}))
    mixes = [subset.mix[KIND] for subset in context.subsets if subset.arm == arm and KIND in subset.mix]
    if not pool or not mixes:
        raise ValueError(
            f"map of capability and style of {arm}: unknown for {'its subsets' if pool else 'the pool'}; "
            "compute the signals `capability` and `style` of the pool, or leave the map out"
        )
    subset, name = _table(mean_mix(mixes)), style.shorten(arm, 1.4)
    rows, columns = _names([pool, subset], 0), _names([pool, subset], 1)
    names = [[style.shorten(n.replace("_", " "), 1.4, style.SMALL) for n in part] for part in (rows, columns)]
    left = style.widest(names[0], style.SMALL) + 0.14
    cell = min(0.36, max(0.27, (style.PAGE - left - 1.2) / (2 * len(columns))))
    above, right = cells.room(names[1], cell)
    between, panel = max(right, 0.12), cell * len(columns)
    width = left + 2 * panel + between + right
    figure = style.sheet(width, above + style.ROW * 1.1 * len(rows) + 0.27)
    shares = [[100 * pool.get((r, c), 0.0) for c in columns] for r in rows]
    ratios = [[_ratio(subset.get((r, c), 0.0), pool.get((r, c), 0.0)) for c in columns] for r in rows]
    highest = max(1.0, *(value for row in shares for value in row))
    for at, values, write, look, what in (
        (left, shares, _share, (style.SEQUENTIAL, 0.0, highest), "pool, % of samples"),
        (left + panel + between, ratios, _times, (style.DIVERGING, -REACH, REACH), f"{name} ÷ pool"),
    ):
        axes = style.place(figure, at, width - at - panel, 0.25, above + 0.02)
        shaded = values if values is shares else [[_log(value) for value in row] for row in values]
        cells.fill(axes, shaded, [[write(value) for value in row] for row in values], *look)
        cells.name_columns(axes, names[1])
        axes.set_yticks(range(len(rows)), names[0] if at == left else [])
        center = (at + panel / 2) / width
        figure.text(center, 0.06 / figure.get_size_inches()[1], what, ha="center", va="bottom")
    return figure


def _table(mix: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """(capability, style) -> share."""
    pairs = ((name.rpartition(" | "), share) for name, share in mix.items())
    return {(capability, kind): share for (capability, _, kind), share in pairs}


def _names(tables: Sequence[Mapping[tuple[str, str], float]], side: int) -> list[str]:
    """The names on one side of the tables, those of the largest share first."""
    totals: dict[str, float] = {}
    for pair, share in tables[0].items():
        totals[pair[side]] = totals.get(pair[side], 0.0) + share
    for table in tables[1:]:
        for pair in table:
            totals.setdefault(pair[side], 0.0)
    return sorted(totals, key=lambda name: -totals[name])


def _ratio(share: float, pool: float) -> float:
    """NaN where the pool has none."""
    return share / pool if pool else math.nan


def _log(ratio: float) -> float:
    """log2, limited to what the colours show."""
    if math.isnan(ratio):
        return ratio
    return max(-REACH, math.log2(ratio)) if ratio else -REACH


def _share(percent: float) -> str:
    return f"{percent:.1f}" if percent else ""


def _times(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:.1f}" if 0 < ratio < 9.95 else f"{ratio:.0f}"
