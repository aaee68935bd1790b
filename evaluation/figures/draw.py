"""All figures of a comparison, each as SVG, PDF and PNG.

draw_all(comparison, context, out)     # out/figures/forest.svg, .pdf, .png, and so on
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.figures import forest, means, style


def draw_all(
    comparison: Comparison, context: Context, out: Path, radar: Sequence[str] = ()
) -> list[Path]:
    """Draw what the data can show into OUT/figures; returns the paths without their suffix, forest first.

    `radar`: names of the arms of the radar, which is drawn for no others.
    """
    return [
        style.save(figure, Path(out) / "figures" / name)
        for name, figure in figures(comparison, context, radar)
    ]


def figures(
    comparison: Comparison, context: Context, radar: Sequence[str] = ()
) -> Iterator[tuple[str, Any]]:
    """(name, figure) of each figure that the data can show."""
    if any(arm.difference for arm in comparison.arms):
        yield "forest", forest.draw(comparison)
    yield "means", means.draw(comparison)
