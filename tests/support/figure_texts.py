"""What can be read off a figure: its texts with their places, the greys of its colours."""

import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.transforms import Affine2D, Bbox

Box = tuple[str, Any]
"""A text and its artist."""
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
"""Linear RGB as seen without the cones for green (Machado et al. 2009, severity 1)."""


def texts(figure: Any) -> list[Box]:
    """(text, its artist) of every text that is drawn: not of ticks beyond the ends of an axis."""
    from matplotlib.text import Text

    drawn = []
    draw = Text.draw

    def recorded(text, renderer, *others):
        drawn.append(text)
        return draw(text, renderer, *others)

    with mock.patch.object(Text, "draw", recorded):
        figure.canvas.draw()
    return [(text.get_text(), text) for text in drawn if text.get_visible() and text.get_text().strip()]


def corners(text: Any) -> Any:
    """The four corners of a text's own rectangle, turned as the text is, in pixels."""
    turned = text.get_rotation()
    text.set_rotation(0)
    text.set_rotation_mode("anchor")
    box = text.get_window_extent(text.figure.canvas.get_renderer())
    text.set_rotation(turned)
    anchor = text.get_transform().transform(text.get_unitless_position())
    turn = Affine2D().rotate_deg_around(*anchor, turned)
    # 15 % of the line's height above and below hold no ink
    inner = 0.15 * box.height
    return turn.transform(
        [
            (box.x0, box.y0 + inner),
            (box.x1, box.y0 + inner),
            (box.x1, box.y1 - inner),
            (box.x0, box.y1 - inner),
        ]
    )


def touching(figure: Any) -> Iterator[tuple[str, str]]:
    """Pairs of texts whose rectangles overlap."""
    found = [(name, corners(text)) for name, text in texts(figure)]
    for (a, one), (b, two) in itertools.combinations(found, 2):
        if _overlap(one, two):
            yield a, b


def _overlap(one: Any, two: Any) -> bool:
    """Whether two rectangles overlap: no side of either separates them (separating axis theorem)."""
    if (one.max(0) <= two.min(0)).any() or (two.max(0) <= one.min(0)).any():
        return False
    for shape in (one, two):
        for side in (shape[1] - shape[0], shape[3] - shape[0]):
            p, q = one @ side, two @ side
            if p.max() <= q.min() + 1e-6 or q.max() <= p.min() + 1e-6:
                return False
    return True


def outside(figure: Any) -> list[str]:
    """Texts that reach beyond the figure."""
    width, height = figure.get_size_inches() * figure.dpi
    found = [(name, corners(text)) for name, text in texts(figure)]
    return [
        name
        for name, at in found
        if at.min() < -0.5 or at[:, 0].max() > width + 0.5 or at[:, 1].max() > height + 0.5
    ]


def struck(figure: Any) -> list[str]:
    """Texts that a line of the axes passes through, unless the text is above it on a ground of its own."""
    from matplotlib.path import Path

    found = [(name, text, corners(text)) for name, text in texts(figure)]
    hit = []
    for line in (line for axes in figure.axes for line in axes.lines):
        if line.get_linestyle() in ("None", "none"):
            continue
        path = line.get_transform().transform_path(line.get_path())
        inside = line.axes.bbox if line.get_clip_on() else figure.bbox
        for name, text, at in found:
            covered = text.get_bbox_patch() is not None and text.get_zorder() > line.get_zorder()
            near = inside.overlaps(Bbox([at.min(0), at.max(0)]))
            if near and not covered and path.intersects_path(Path([*at, at[0]]), filled=False):
                hit.append(name)
    return hit


def lightness(color: str, seen: Any = None) -> float:
    """CIE L* of a colour, 0..100, as seen through a matrix on linear RGB."""
    from matplotlib.colors import to_rgb

    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = linear if seen is None else np.clip(seen @ linear, 0, 1)
    y = float(linear @ (0.2126, 0.7152, 0.0722))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y
