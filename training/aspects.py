"""How a training has images fitted to the model, if not as the checkpoint has them so far.

    mode = set_aspect(processor, mode, "anyres_max_9", "(1x1),...,(6x6)", model.config)

The choice is written into the processor and the config, so that whatever reads the saved checkpoint (signals,
evaluation) sees images as the training did. Modes are those of `training.images.PixelLoader`.
"""

from collections.abc import Sequence
from typing import Any

Grids = str | Sequence[Sequence[int]]
"""Sizes [height, width] in pixels, or LLaVA's notation in tiles: "(1x1),...,(6x6)" or "(1x1),(1x2)"."""


def set_aspect(
    processor: Any, mode: str, aspect: str | None, grids: Grids | None = None, config: Any = None
) -> str:
    """The image mode for `aspect`, after setting it in `processor` and, if given, the model's `config`.

    `mode`: the checkpoint's own, which stays if `aspect` and `grids` are None. `aspect`: "base" (one tile and
    a newline, LLaVA-OneVision), "pad" (a square padded with the mean colour), "crop" (the middle square),
    "anyres" (tiles on the best of `grids`) or "anyres_max_N" (and features of more than N tiles are scaled
    down). Raises ValueError if the model cannot do it.
    """
    if aspect is None and grids is None:
        return mode
    if aspect is not None:
        mode = _mode(processor, aspect)
    if mode == "anyres":
        _set_tiles(processor, aspect or "anyres", grids, config)
    elif grids is not None:
        raise ValueError(f"image_grids are for tiles (image_aspect anyres), not for image mode {mode!r}")
    if config is not None:
        config.image_mode = mode
    return mode


VIEWS = ("single", "anyres")
"""How many views a model gets of an image: one, or also tiles of it where it is large."""


def mode_of_view(view: str | None, mode: str) -> str:
    """The image mode for a view; `mode`: the checkpoint's own, which stays for None.

    Raises ValueError for another view, and for tiles with a model that has one view only.
    """
    if view is None or (view == "single" and mode in ("base", "pad", "crop")):
        return mode
    if view not in VIEWS:
        raise ValueError(f"the view of an image must be one of {', '.join(VIEWS)}, got {view!r}")
    if mode in ("pad", "crop"):
        raise ValueError(f"a model with the image mode {mode!r} has one view of an image, no tiles (anyres)")
    return "base" if view == "single" else "anyres"


def _mode(processor: Any, aspect: str) -> str:
    """The mode that stands for `aspect` with this processor. Raises ValueError."""
    from training.families import of_processor

    images, family = processor.image_processor, of_processor(processor)
    modes = {}
    if hasattr(images, "image_grid_pinpoints"):
        modes["anyres"] = "anyres"
    elif getattr(images, "do_center_crop", False):  # CLIP's, of LLaVA-1.5
        modes |= {"pad": "pad", "crop": "crop"}
    if family.one_tile:
        modes |= {"base": "base", "pad": "base"}
    kind = "anyres" if aspect.startswith("anyres_max_") and _limited(processor) else aspect
    if kind not in modes:
        known = [*modes, *(["anyres_max_N"] if _limited(processor) else [])]
        raise ValueError(
            f"image_aspect {aspect!r} does not exist for {family.name}: "
            f"{'it must be one of ' + ', '.join(known) if known else 'it has one way only, so leave it out'}"
        )
    return modes[kind]


def _limited(processor: Any) -> bool:
    """Whether the model scales down the features of many tiles (LLaVA-OneVision's anyres_max_N)."""
    return hasattr(processor, "vision_aspect_ratio")


def _set_tiles(processor: Any, aspect: str, grids: Grids | None, config: Any) -> None:
    images = processor.image_processor
    if grids is not None:
        images.image_grid_pinpoints = _pixels(grids, _side(images))
    if _limited(processor) and aspect.startswith("anyres_max_"):
        processor.vision_aspect_ratio = aspect
    if config is not None:
        config.image_grid_pinpoints = images.image_grid_pinpoints
        if _limited(processor):
            config.vision_aspect_ratio = processor.vision_aspect_ratio


def _side(images: Any) -> int:
    """The side of a tile in pixels."""
    size = images.size
    return size["height"] if "height" in size else size["shortest_edge"]


def _pixels(grids: Grids, side: int) -> list[list[int]]:
    """[height, width] of each grid in pixels, multiples of `side`. Raises ValueError."""
    from training.convert.images import read_grids

    if isinstance(grids, str):
        return read_grids(grids, side)
    out = [[int(edge) for edge in grid] for grid in grids]
    if not out or any(len(grid) != 2 or min(grid) < side or grid[0] % side or grid[1] % side for grid in out):
        raise ValueError(
            f"image_grids must be pairs [height, width] in multiples of {side} pixels (a tile), got {grids!r}"
        )
    return out
