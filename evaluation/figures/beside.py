"""Names of points in a column right of the axes, each with a thin line to its point: they never overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.figures import style

LINE = 0.135
"""Inches between two names."""
NAMES = 1.6
GAP = 0.28
"""Inches between the axes and the names, which the lines cross."""


@dataclass(frozen=True)
class Named:
    """A point (in data coordinates) and its name, in grey if `light`."""

    x: float
    y: float
    text: str
    light: bool = False


def width(points: Sequence[Named]) -> float:
    """Inches that the column takes right of the axes."""
    texts = [_short(point) for point in points]
    return GAP + style.widest(texts, style.SMALL) + 0.08


def height(points: Sequence[Named], least: float) -> float:
    """Inches that the axes need so that all names fit; at least `least`."""
    return max(least, LINE * (len(points) + 1))


def write(axes: Any, points: Sequence[Named]) -> None:
    """Write the names; the limits of the axes must be final."""
    from matplotlib.collections import LineCollection

    figure, box = axes.figure, axes.get_position()
    inches, tall = box.width * figure.get_size_inches()[0], box.height * figure.get_size_inches()[1]
    places = axes.transAxes.inverted().transform(axes.transData.transform([(p.x, p.y) for p in points]))
    at = style.spread([y for _, y in places], LINE / tall, 0.0, 1.0)
    edge, start = 1 + 0.05 / inches, 1 + (GAP - 0.04) / inches
    lines = [((x, y), (edge, y), (start, to)) for (x, y), to in zip(places, at, strict=True)]
    axes.add_collection(
        LineCollection(lines, color="#CFCFCF", lw=0.5, zorder=1.2, transform=axes.transAxes, clip_on=False),
        autolim=False,
    )
    for point, to in zip(points, at, strict=True):
        axes.text(
            1 + GAP / inches,
            to,
            _short(point),
            transform=axes.transAxes,
            ha="left",
            va="center_baseline",
            fontsize=style.SMALL,
            color="#707070" if point.light else "black",
        )


def _short(point: Named) -> str:
    return style.shorten(point.text, NAMES, style.SMALL)
