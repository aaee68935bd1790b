"""A picture as data (things on a 4 x 4 grid over a background), and its rendering.

A cell is 16 x 16 pixels, one patch of the tiny vision tower, and is named by column a-d and row 1-4. `jitter`
(pixels) moves a thing off the patch grid; `span=2` fills 2 x 2 cells.
"""

from collections.abc import Set
from dataclasses import dataclass, field
from random import Random

import numpy as np
from PIL import Image

from curation.mini import art

CELL, GRID = 16, 4
SIZE = CELL * GRID
CELLS = tuple((column, row) for row in range(GRID) for column in range(GRID))
BAR_UNIT = 9
MAX_BAR = 6


def cell_name(cell: tuple[int, int]) -> str:
    """(column, row), counted from 0, as "a1".."d4"."""
    return f"{'abcd'[cell[0]]}{cell[1] + 1}"


@dataclass(frozen=True)
class Thing:
    """One drawn thing.

    kind: object, shape, letter, digit, sign, flag or bar. span: cells that it fills in each direction.
    variant: art style, font, digit instance, country index or bar height, by kind.
    """

    kind: str
    name: str
    cell: tuple[int, int]
    span: int = 1
    color: str = "black"
    variant: int = 0

    @property
    def where(self) -> str:
        return cell_name(self.cell)

    @property
    def words(self) -> str:
        """Its name in a dense caption."""
        name = art.names().group_of(self.name) or self.name
        if self.kind in ("shape", "bar"):
            name = f"{self.color} {name}"
        return f"big {name}" if self.span > 1 and self.kind == "object" else name


@dataclass
class Scene:
    """Things over a background; `photo` is the name of the background, None for a plain tint."""

    things: list[Thing] = field(default_factory=list)
    photo: str | None = None
    faded: bool = True
    jitter: int = 2

    def listing(self) -> list[Thing]:
        """Things in reading order."""
        return sorted(self.things, key=lambda t: (t.cell[1], t.cell[0]))

    def caption(self) -> str:
        """Every thing with its cell, in reading order."""
        return " ".join(f"{t.where} {t.words}" for t in self.listing())


def free_cells(rng: Random, count: int, taken: Set[tuple[int, int]] = frozenset()) -> list[tuple[int, int]]:
    """`count` distinct cells outside `taken`, in random order."""
    return rng.sample([c for c in CELLS if c not in taken], count)


def block(cell: tuple[int, int]) -> set[tuple[int, int]]:
    """The cells covered by a 2 x 2 thing whose top-left cell is `cell`."""
    return {(cell[0] + dx, cell[1] + dy) for dx in (0, 1) for dy in (0, 1)}


def _background(scene: Scene, rng: Random, held_out: bool) -> np.ndarray:
    if scene.photo is None:
        return np.full((SIZE, SIZE, 3), [rng.randint(215, 255) for _ in range(3)], dtype=np.float32)
    photo = art.photo(scene.photo)
    height, width = photo.shape[:2]
    side = rng.randint(80, 150)
    border = int(width * 0.75)  # the pool's crops end left of it; held-out crops reach beyond it
    side = min(side, height, width - border + 60) if held_out else min(side, height, border)
    x = (
        rng.randint(min(border - 60, width - side), width - side)
        if held_out
        else rng.randint(0, border - side)
    )
    y = rng.randint(0, height - side)
    crop = Image.fromarray(photo[y : y + side, x : x + side]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = np.asarray(crop, dtype=np.float32)
    return pixels * 0.35 + 255 * 0.65 if scene.faded else pixels.copy()


def _patch(thing: Thing, size: int) -> tuple[np.ndarray, np.ndarray]:
    ink = art.COLORS[thing.color]
    if thing.kind == "object":
        return art.sprite(thing.name, thing.variant, size)
    if thing.kind == "shape":
        return art.shape(thing.name, thing.color, size)
    if thing.kind in ("letter", "sign"):
        return art.glyph(
            thing.name.upper() if thing.kind == "letter" else thing.name, thing.variant, size, ink
        )
    if thing.kind == "digit":
        return art.digit(thing.variant, size, ink)
    return art.flag(thing.variant, size)


def _draw_bar(canvas: np.ndarray, thing: Thing, rng: Random) -> None:
    left = thing.cell[0] * CELL + 3 + rng.randint(-1, 1)
    canvas[SIZE - 2 - BAR_UNIT * thing.variant : SIZE - 2, left : left + 10] = art.COLORS[thing.color]


def draw(scene: Scene, rng: Random, held_out: bool = False) -> Image.Image:
    """Render a 64 x 64 RGB image. `held_out` crops photos from the part that the pool never shows."""
    canvas = _background(scene, rng, held_out)
    for thing in scene.things:
        if thing.kind == "bar":
            _draw_bar(canvas, thing, rng)
            continue
        full = CELL * thing.span
        size = full + (rng.randint(-2, 1) if scene.jitter else 0)
        color, keep = _patch(thing, size)
        high, wide = color.shape[:2]
        x = thing.cell[0] * CELL + (full - wide) // 2 + rng.randint(-scene.jitter, scene.jitter)
        y = thing.cell[1] * CELL + (full - high) // 2 + rng.randint(-scene.jitter, scene.jitter)
        x, y = min(max(x, 0), SIZE - wide), min(max(y, 0), SIZE - high)
        canvas[y : y + high, x : x + wide] = canvas[y : y + high, x : x + wide] * keep + color
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
