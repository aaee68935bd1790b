"""Overlap of the arms' subsets as a matrix."""

import math
from typing import Any

from evaluation.context import Context
from evaluation.figures import cells, style

NAMES = 1.5
SMALLEST, WITH_NUMBER = 0.15, 0.19
"""Inches of a cell whose slanted name touches no other, and of one that has room for its number."""


@style.in_style
def draw(context: Context) -> Any:
    """Share of the row's subset that is also in the column's, in %, of all pairs of `Context.overlap`."""
    arms = list(dict.fromkeys(name for pair in context.overlap for name in pair))
    names = [style.shorten(name, NAMES, style.SMALL) for name in arms]
    left = style.widest(names, style.SMALL) + 0.14
    cell = min(cells.CELL, max(SMALLEST, (style.PAGE - left - 0.75) / len(arms)))
    above, right = cells.room(names, cell)
    note = "share of the row's subset that is also in the column's, %"
    width = max(left + cell * len(arms) + right, style.text_width(note) + 0.2)
    height = above + cell * len(arms) + 0.27
    figure = style.sheet(width, height)
    axes = style.place(figure, left, width - left - cell * len(arms), 0.25, above + 0.02)
    values = [[100 * context.overlap.get((a, b), math.nan) for b in arms] for a in arms]
    highest = max((v for row in values for v in row if not math.isnan(v)), default=100.0)
    number = cell >= WITH_NUMBER
    texts = [["" if math.isnan(v) or not number else f"{v:.0f}" for v in row] for row in values]
    cells.fill(axes, values, texts, style.SEQUENTIAL, 0, max(highest, 1.0))
    cells.name_columns(axes, names)
    axes.set_yticks(range(len(arms)), names)
    if not number:
        note += f" (white: none, darkest: {highest:.0f})"
    figure.text(0.5, 0.06 / height, note, ha="center", va="bottom")
    return figure
