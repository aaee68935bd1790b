"""A matrix of coloured cells with their numbers, and slanted names above its columns."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from evaluation.figures import style

SLANT = 45
CELL = 0.3
"""Height and width in inches that a cell with a number gets where there is room."""


def fill(
    axes: Any,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    colors: str,
    low: float,
    high: float,
) -> None:
    """Colour each cell by its value (NaN: white); write its text in black or white, what is legible."""
    import numpy as np
    from matplotlib import colormaps

    grid = np.asarray(values, float)
    rows, columns = grid.shape
    shades = colormaps[colors](np.clip((grid - low) / (high - low), 0, 1))
    shades[np.isnan(grid)] = 1.0
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    axes.pcolormesh(*edges, shades, edgecolors="white", linewidth=0.6)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    dark = shades[..., :3] @ (0.299, 0.587, 0.114) < 0.5
    for color, where in (("white", dark), ("black", ~dark)):
        _write(axes, [(x, y, texts[y][x]) for y, x in np.argwhere(where)], color)


def _write(axes: Any, texts: Sequence[tuple[int, int, str]], color: str) -> None:
    """Texts centred on their cells, all as one shape: hundreds of texts of their own take seconds to draw."""
    import numpy as np
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    box, (width, height) = axes.get_position(), axes.figure.get_size_inches()
    x_inches = box.width * width / np.ptp(axes.get_xlim())
    y_inches = box.height * height / np.ptp(axes.get_ylim())
    left, top = box.x0 * width, box.y1 * height
    shapes = []
    for x, y, text in texts:
        if text:
            outline, wide, high = _outline(text)
            at = (left + (x + 0.5) * x_inches - wide / 2, top - (y + 0.5) * y_inches - high / 2)
            shapes.append(Path(outline.vertices + at, outline.codes))
    if shapes:
        whole = Path.make_compound_path(*shapes)
        patch = PathPatch(whole, facecolor=color, linewidth=0, transform=axes.figure.dpi_scale_trans)
        axes.add_artist(patch)  # add_patch would search thousands of curves for new limits


@functools.lru_cache(maxsize=4096)
def _outline(text: str) -> tuple[Any, float, float]:
    """(outline with its origin at the lower left, width, height of a digit), in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans")
    path = TextPath((0, 0), text, size=style.TINY, prop=font, usetex=False)
    digit = 0.729 * style.TINY  # height of a digit of DejaVu Sans, in em
    wide = style.text_width(text, style.TINY)
    return Path(path.vertices / 72, path.codes), wide, digit / 72


def box(axes: Any, marked: Sequence[tuple[int, int]]) -> None:
    """A frame inside each of the cells (row, column)."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    frames = [Rectangle((x - 0.41, y - 0.36), 0.82, 0.72) for y, x in marked]
    for color, width in (("white", 2.2), ("black", 0.9)):  # a black line alone is lost on a dark cell
        looks: dict[str, Any] = {
            "facecolor": "none",
            "edgecolor": color,
            "linewidth": width,
            "joinstyle": "miter",
        }
        axes.add_collection(PatchCollection(frames, **looks))


def name_columns(axes: Any, names: Sequence[str]) -> None:
    """Slanted names above the columns."""
    axes.xaxis.tick_top()
    axes.set_xticks(
        range(len(names)), names, rotation=SLANT, ha="left", va="baseline", rotation_mode="anchor"
    )
    axes.tick_params(axis="x", pad=2)


def room(names: Sequence[str], cell: float) -> tuple[float, float]:
    """(inches above, inches right of the last column) that slanted names of columns `cell` wide need."""
    slope = math.radians(SLANT)
    widths = [style.text_width(name, style.SMALL) for name in names]
    line = style.SMALL / 72
    above = max(widths, default=0.0) * math.sin(slope) + line * math.cos(slope) + 0.08
    ends = [(k - len(names) + 0.5) * cell + width * math.cos(slope) for k, width in enumerate(widths)]
    return above, max(0.0, *ends, 0.0) + 0.08
