"""All figures of a comparison, each as SVG, PDF and PNG.

draw_all(comparison, context, out)     # out/figures/forest.svg, .pdf, .png, and so on
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.figures import benchmarks, budget, cost, forest, means, overlap, radar, style, style_map
from evaluation.figures.arms import compared


def draw_all(
    comparison: Comparison,
    context: Context,
    out: Path,
    radar: Sequence[str] = (),
    maps: Sequence[str] = (),
) -> list[Path]:
    """Draw what the data can show into OUT/figures; returns the paths without their suffix, forest first.

    `radar`: arms of the radar, which is drawn for no others. `maps`: arms of the maps of capability and
    style, one file each; by default the first arm that is no control.
    """
    drawn = figures(comparison, context, radar, maps)
    return [style.save(figure, Path(out) / "figures" / name) for name, figure in drawn]


def figures(
    comparison: Comparison, context: Context, shown: Sequence[str] = (), maps: Sequence[str] = ()
) -> Iterator[tuple[str, Any]]:
    """(name, figure) of each figure that the data can show; arguments as of `draw_all`."""
    if any(arm.baseline and arm.difference for arm in comparison.arms):
        yield "forest", forest.draw(comparison)
    if budget.can_show(comparison, context):
        yield "budget", budget.draw(comparison, context)
    if compared(comparison):
        yield "benchmarks", benchmarks.draw(comparison)
    default = style_map.default_arm(comparison, context)
    for k, arm in enumerate(maps or ([default] if default else [])):
        yield "style_map" + (f"_{k + 1}" if k else ""), style_map.draw(context, arm)
    if context.overlap:
        yield "overlap", overlap.draw(context)
    if cost.totals(comparison, context)[1]:
        yield "cost", cost.draw(comparison, context)
    yield "means", means.draw(comparison)
    if shown:
        yield "radar", radar.draw(comparison, shown)
