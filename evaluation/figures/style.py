"""What all figures share: sizes of a paper's columns, fonts, colours, and saving as SVG, PDF and PNG.

Drawn without a display and without pyplot's global state; equal content gives equal bytes. Margins are
computed from the widths of the labels, so that no figure needs a layout engine: one drawing, three files.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from curation import atomic

COLUMN, PAGE = 3.3, 6.8
"""Widths in inches: one column and two columns of a paper."""
SIZE, SMALL, TINY = 7.5, 7.0, 6.0
"""Font sizes in points: labels, ticks and legends; numbers inside cells."""
ROW = 0.165
"""Height in inches of a row with one line of text."""
PALETTE = ("#1769AA", "#F5CF4E", "#7A1F1F", "#D9622B", "#141B4D", "#6DB8E8")
"""Their lightness (CIE L* 43, 84, 27, 56, 12, 72) differs by 12 or more, so they are distinct in grey; hues
alternate between blue and red or yellow, which all colour vision deficiencies tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (3, 1, 1, 1, 1, 1)))
GREY, LIGHT, INK = "#8C8C8C", "#E4E4E4", "#222222"
DIVERGING = "PuOr"
"""Purple for what is better, orange for what is worse: apart with any colour vision deficiency. In grey both
ends are dark, so whoever uses it writes the signed number into each cell."""
SEQUENTIAL = "Blues"
"""Lighter is less, in colour and in grey."""

SETTINGS: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": SIZE,
    "axes.labelsize": SIZE,
    "axes.titlesize": SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "grid.color": LIGHT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "pdf.fonttype": 42,  # TrueType: many publishers refuse Type 3
    "ps.fonttype": 42,
    "svg.hashsalt": "winnow",
    "svg.fonttype": "path",
}
METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
DPI = 160
MINUS = "\N{MINUS SIGN}"

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The settings of all figures, for the time of the block."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def in_style(draw: Callable[P, T]) -> Callable[P, T]:
    """A drawing function that runs with the settings of all figures."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **keywords: P.kwargs) -> T:
        with styled():
            return draw(*args, **keywords)

    return wrapped


def sheet(width: float, height: float) -> Any:
    """An empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def place(figure: Any, left: float, right: float, bottom: float, top: float, **keywords: Any) -> Any:
    """Axes with these margins in inches."""
    width, height = figure.get_size_inches()
    box = (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - bottom - top) / height,
    )
    return figure.add_axes(box, **keywords)


def signed(value: float, digits: int = 1) -> str:
    """The number with its sign; a true minus."""
    rounded = round(value, digits) + 0.0  # which makes -0.0 positive
    return f"{rounded:+.{digits}f}".replace("-", MINUS)


@functools.lru_cache(maxsize=8192)
def text_width(text: str, size: float = SIZE) -> float:
    """Width in inches of one line of text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family="DejaVu Sans", size=size)
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def widest(texts: Sequence[str], size: float = SIZE) -> float:
    """Width in inches of the widest text; 0 for none."""
    return max((text_width(text, size) for text in texts), default=0.0)


def shorten(text: str, inches: float, size: float = SIZE) -> str:
    """The text, or its beginning and its end around an ellipsis where it is wider than `inches`."""
    if text_width(text, size) <= inches:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: kept - kept // 3]}…{text[len(text) - kept // 3 :]}"
        if text_width(short, size) <= inches:
            return short
    return "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `wanted`, in the same order, at least `gap` apart and within `low` to `high`.

    Of all such positions those with the least squared distance (pool adjacent violators). Closer than
    `gap` only where the room is too small for all.
    """
    n = len(wanted)
    if n > 1:
        gap = min(gap, (high - low) / (n - 1))
    order = sorted(range(n), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # (mean, size) of what the gaps are taken off from
    for rank, i in enumerate(order):
        blocks.append((wanted[i] - rank * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, k) = blocks[-2:]
            blocks[-2:] = [((a * m + b * k) / (m + k), m + k)]
    flat = [mean for mean, size in blocks for _ in range(size)]
    placed = [0.0] * n
    for rank, i in enumerate(order):
        placed[i] = min(max(flat[rank], low), high - (n - 1) * gap) + rank * gap
    return placed


def scores(axes: Any, benchmarks: int) -> None:
    """The y axis of means over benchmarks: its label, few ticks, lines through them."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y")
    axes.set_ylabel(f"mean of {benchmarks} benchmarks, %" if benchmarks > 1 else "score, %")


SCORES = 0.62
"""Inches left of axes with `scores`."""


def looks(k: int) -> dict[str, Any]:
    """Colour, marker and line style of the k-th series; 42 differ in colour or marker."""
    return {
        "color": PALETTE[k % len(PALETTE)],
        "marker": MARKERS[k % len(MARKERS)],
        "linestyle": DASHES[k % len(DASHES)],
        "markeredgecolor": INK,
        "markeredgewidth": 0.5,
    }


def legend(figure: Any, handles: Sequence[Any], labels: Sequence[str], bottom: float = 0.03) -> None:
    """One legend centred at the bottom, in as many columns as fit; see `legend_height`."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, bottom / height),
        ncols=_legend_columns(labels, width),
        borderaxespad=0,
        borderpad=0,
        handlelength=2.2,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def legend_height(labels: Sequence[str], width: float) -> float:
    """Height in inches that `legend` takes on a figure of this width."""
    return 0.145 * -(-len(labels) // _legend_columns(labels, width)) + 0.06 if labels else 0.0


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """The most columns that fit, each as wide as its widest label.

    matplotlib fills one column after the other, the first ones with one entry more than the last.
    """
    handle = (2.2 + 0.5 + 1.2) * SMALL / 72
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)
        starts = [k * rows + min(k, longer) for k in range(columns + 1)]
        parts = [labels[a:b] for a, b in itertools.pairwise(starts)]
        if sum(widest(part, SMALL) + handle for part in parts) <= width - 0.1:
            return columns
    return 1


@in_style
def save(figure: Any, stem: Path) -> Path:
    """Write STEM.svg, STEM.pdf and STEM.png, each renamed when complete; returns the stem.

    No dates, no versions of libraries: equal content gives equal bytes.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, metadata in METADATA.items():
        with atomic.replacing(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)
    return stem
