"""Figure of a sweep: the difference to the baseline against the value of each key, one panel per key."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.figures import style

Point = tuple[Any, float, float, float]
"""(value of the key, difference, low, high end of its interval)."""
Panel = Mapping[str, Sequence[Point]]
"""The points of each arm."""
COLUMNS = 3
LEFT, BETWEEN, TITLE = 0.55, 0.15, 0.2
"""Inches: left of the first panel, between two, the heading of one."""


def draw_sweep(panels: Mapping[str, Panel], path: Path) -> Path:
    """Write SVG, PDF and PNG, with these suffixes in place of that of `path`, which is returned."""
    style.save(draw(panels), path.with_suffix(""))
    return path


@style.in_style
def draw(panels: Mapping[str, Panel]) -> Any:
    """One line per arm; bars are the intervals. All panels have the same y axis."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    tall = 1.35 if len(next(iter(panels.values()), {})) <= 8 else 2.2
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    labels = [style.shorten(arm, 1.6, style.SMALL) for arm in arms]
    width = style.PAGE if columns > 1 else 0.6 * style.PAGE
    inner = (width - LEFT - 0.1 - BETWEEN * (columns - 1)) / columns
    texts = {key: _values(panel) for key, panel in panels.items()}
    below = [0.12 + _below(own, inner) for own in texts.values()]
    # of each row of panels; the names of its values may be upright
    depths = [max(below[row * columns : (row + 1) * columns]) for row in range(rows)]
    bottom = style.legend_height(labels, width)
    figure = style.sheet(width, rows * (TITLE + tall) + sum(depths) + bottom + 0.05)
    low, high = _limits(panels)
    handles: dict[str, Any] = {}
    for k, (key, panel) in enumerate(panels.items()):
        row, column = divmod(k, columns)
        left = LEFT + column * (inner + BETWEEN)
        top = (row + 1) * TITLE + row * tall + sum(depths[:row])
        base = figure.get_size_inches()[1] - top - tall
        axes = style.place(figure, left, width - left - inner, base, top)
        handles |= _panel(axes, panel, arms, texts[key])
        axes.set_ylim(low, high)
        axes.set_title(style.shorten(key, inner), pad=3)
        if column:
            axes.tick_params(axis="y", labelleft=False)
        else:
            axes.set_ylabel("difference, points")
        _name_values(axes, texts[key], inner)
    style.legend(figure, [handles[arm] for arm in arms], labels)
    return figure


def _limits(panels: Mapping[str, Panel]) -> tuple[float, float]:
    """Ends of the y axis, with 0."""
    points = [point for panel in panels.values() for own in panel.values() for point in own]
    low = min([0.0, *(p[2] for p in points if not math.isnan(p[2])), *(p[1] for p in points)])
    high = max([0.0, *(p[3] for p in points if not math.isnan(p[3])), *(p[1] for p in points)])
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _values(panel: Panel) -> dict[str, float]:
    """Text of each value -> its place: numbers at their value, others side by side in order.

    Positive numbers that span a factor of 10 or more stand at their logarithm.
    """
    values = {str(point[0]): point[0] for points in panel.values() for point in points}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
        return {text: float(k) for k, text in enumerate(values)}
    numbers = {text: float(value) for text, value in values.items()}
    if min(numbers.values()) > 0 and max(numbers.values()) >= 10 * min(numbers.values()):
        return {text: math.log10(value) for text, value in numbers.items()}
    return numbers


def _panel(axes: Any, panel: Panel, arms: Sequence[str], places: Mapping[str, float]) -> dict[str, Any]:
    """Draws the arms slightly apart, lest bars overlap; returns their handles."""
    ordered = sorted(places.values())
    nearest = min((b - a for a, b in itertools.pairwise(ordered)), default=1.0)
    step = min(0.08, 0.6 / len(panel)) * nearest
    handles = {}
    for k, (arm, points) in enumerate(panel.items()):
        looks = style.looks(arms.index(arm))
        x = [places[str(p[0])] + step * (k - (len(panel) - 1) / 2) for p in points]
        axes.vlines(x, [p[2] for p in points], [p[3] for p in points], color=looks["color"], lw=0.9, zorder=2)
        handles[arm] = axes.plot(x, [p[1] for p in points], zorder=3, **looks)[0]
    axes.axhline(0, color=style.GREY, lw=0.8, zorder=1)
    axes.grid(axis="y")
    axes.margins(x=0.12)
    return handles


def _slanted(texts: Sequence[str], places: Sequence[float], inner: float) -> bool:
    """Whether the texts would touch side by side."""
    if len(places) < 2:
        return False
    reach = (max(places) - min(places)) / 0.76  # margins of 0.12 on both sides
    ordered = sorted(zip(places, texts, strict=True))
    return any(
        (b - a) / reach * inner
        < (style.text_width(s, style.SMALL) + style.text_width(t, style.SMALL)) / 2 + 0.06
        for (a, s), (b, t) in itertools.pairwise(ordered)
    )


def _below(places: Mapping[str, float], inner: float) -> float:
    """Inches that the texts of the values take below the axes."""
    texts = [style.shorten(text, 1.0, style.SMALL) for text in places]
    if not _slanted(texts, list(places.values()), inner):
        return 0.13
    return style.widest(texts, style.SMALL) + 0.02


def _name_values(axes: Any, places: Mapping[str, float], inner: float) -> None:
    """Texts of the values, upright where they would touch; of numbers still too close, every next one."""
    texts = [style.shorten(text, 1.0, style.SMALL) for text in places]
    upright = _slanted(texts, list(places.values()), inner)
    if upright:
        reach = (max(places.values()) - min(places.values())) / 0.76
        last, shown = -math.inf, []
        for at, text in sorted(zip(places.values(), texts, strict=True)):
            if (at - last) / reach * inner >= style.SMALL / 72 + 0.02:
                shown.append((at, text))
                last = at
        axes.set_xticks([at for at, _ in shown], [text for _, text in shown], rotation=90)
        return
    axes.set_xticks(list(places.values()), texts)
