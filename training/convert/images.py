"""How a checkpoint looks at an image: one square (padded or cropped), or tiles on the grid that fits it best.

LLaVA writes a size as (width, height), Transformers as [height, width].
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from training.convert.source import ConversionError

_RANGE = re.compile(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)")
_TILES = re.compile(r"\((\d+)x(\d+)\)(,\(\d+x\d+\))*")


@dataclass(frozen=True)
class Images:
    """`aspect`: "pad", "crop" (LLaVA's "square"), "anyres" or "anyres_max_N".

    `grids`: the sizes [height, width] in pixels that tiles are laid on; empty without tiles. With
    anyres_max_N the features of more than N tiles are scaled down to about those of N.
    """

    aspect: str
    grids: list[list[int]]

    @property
    def tiled(self) -> bool:
        """Whether an image is cut into tiles."""
        return self.aspect.startswith("anyres")

    def most_tiles(self, side: int) -> int:
        """The number of tiles of the largest grid."""
        return max(height * width for height, width in self.grids) // side**2

    def limit(self, side: int) -> int:
        """The N of anyres_max_N; without one, a number that no grid exceeds, so that nothing is scaled."""
        number = self.aspect.removeprefix("anyres").removeprefix("_max_")
        return int(number) if number else self.most_tiles(side)


def read_images(aspect: Any, grids: Any, side: int) -> Images:
    """From LLaVA's settings `image_aspect_ratio` and `image_grid_pinpoints`, for tiles of `side` pixels.

    `aspect`: as in `Images`, or "square" or None, which are "crop". `grids`: see `read_grids`; read only if
    the aspect has tiles. Raises ConversionError.
    """
    aspect = "crop" if aspect in (None, "square") else aspect
    if not isinstance(aspect, str) or not re.fullmatch(r"pad|crop|anyres|anyres_max_[1-9]\d*", aspect):
        raise ConversionError(
            f"the image aspect must be pad, crop, square, anyres or anyres_max_N, got {aspect!r}"
        )
    return Images(aspect, read_grids(grids, side) if aspect.startswith("anyres") else [])


def read_grids(value: Any, side: int) -> list[list[int]]:
    """[height, width] of each grid in pixels, from one of LLaVA's notations; these put the width first.

    A list of sizes in pixels, or its text; in tiles, a list "(1x1),(1x2)" or a range "(1x1),...,(6x6)".
    """
    text = value.replace(" ", "") if isinstance(value, str) else ""
    if ends := _RANGE.fullmatch(text):
        left, top, right, bottom = map(int, ends.groups())
        tiles = [(w, h) for w in range(left, right + 1) for h in range(top, bottom + 1)]
    elif _TILES.fullmatch(text):
        tiles = [(int(w), int(h)) for w, h in re.findall(r"(\d+)x(\d+)", text)]
    else:
        return _sizes(value, side)
    return _checked([[h * side, w * side] for w, h in tiles], value, side)


def _sizes(value: Any, side: int) -> list[list[int]]:
    pairs = value
    if isinstance(value, str):
        try:
            pairs = json.loads(value.replace("(", "[").replace(")", "]"))
        except ValueError:
            pass  # refused below, as any other value that is not a list of pairs
    if not isinstance(pairs, list) or not pairs or not all(map(_is_size, pairs)):
        raise ConversionError(f"image_grid_pinpoints must be sizes or a range of grids, got {value!r}")
    return _checked([[height, width] for width, height in pairs], value, side)


def _checked(grids: list[list[int]], value: Any, side: int) -> list[list[int]]:
    if not grids or any(length < side or length % side for grid in grids for length in grid):
        raise ConversionError(f"image_grid_pinpoints must be multiples of a tile's {side} pixels: {value!r}")
    return grids


def _is_size(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(side, int) for side in pair)
