"""Pixels: decoding, one square ("base", "pad") or the processor's own preprocessing, image tokens, a cache.

"base" does what LLaVA-OneVision's image processor does to an image of a multi-image sample, without the
overhead of the processor: pad to a square with the mean colour, resize, normalise. "pad" is how LLaVA-1.5 was
trained (arXiv 2310.03744, section 3.3): the same square in front of CLIP's processor, whose crop then takes
nothing away; of a 640 x 360 picture that crop keeps 56 %.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.transforms.v2 import functional as tvf

from curation.pool.images import rgb, strict_decoding, upright_size
from training import families

Picture = Path | str | Image.Image
MODES = ("base", "pad", "crop", "anyres")
"""How an image becomes the model's input; a checkpoint's config says it as `image_mode` (default: anyres)."""


class ImageError(ValueError):
    """An image that cannot be read; `reason` is "missing_image" or "broken_image"."""

    def __init__(self, path: object, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {path} ({detail})")
        self.path, self.reason = path, reason


def open_image(picture: Picture) -> Image.Image:
    """The PIL image; its header has been read, its pixels perhaps not. Raises ImageError."""
    if isinstance(picture, Image.Image):
        return picture
    try:
        return Image.open(picture)
    except FileNotFoundError as error:
        raise ImageError(picture, "missing_image", "the file does not exist") from error
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(picture, "broken_image", str(error)) from error


def decode(picture: Picture) -> torch.Tensor:
    """uint8 RGB tensor [3, H, W] by the rule of `curation.pool.images.rgb`.

    Raises ImageError for missing, truncated or unreadable files.
    """
    image = open_image(picture)
    try:
        with strict_decoding():
            array = np.array(rgb(image))
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises all three on damaged data
        raise ImageError(picture, "broken_image", str(error)) from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def image_size(picture: Picture) -> tuple[int, int]:
    """(height, width) in pixels of what `decode` gives, from the header. Raises ImageError."""
    image = open_image(picture)
    try:
        return upright_size(image)
    except (OSError, SyntaxError, ValueError) as error:  # a damaged EXIF block
        raise ImageError(picture, "broken_image", str(error)) from error


class PixelLoader:
    """Turns the images of a batch into the model's pixel inputs.

    `image_mode`: "base" (one tile per image), "pad" (LLaVA-1.5: a padded square), "crop" (LLaVA-1.5: the
    middle, as its processor does it) or "anyres" (as the family's processor does it). Only some families have
    "base": the others do as their processor does. `training.aspects` says which model has which.
    `cache_mb`: RAM for decoded squares of image files; images given as PIL objects are never cached.
    `sizes`: (height, width) of image files by path where somebody knows them; counting the tokens of another
    image reads its header.
    """

    def __init__(self, processor: Any, image_mode: str = "anyres", cache_mb: int = 256) -> None:
        if image_mode not in MODES:
            raise ValueError(f"image_mode must be one of {', '.join(MODES)}, got {image_mode!r}")
        self.processor = processor
        self.images = processor.image_processor
        self.family = families.of_processor(processor)
        self.base = image_mode == "base" and self.family.one_tile
        self.square = self.base or image_mode == "pad"
        self.sizes: Mapping[str, tuple[int, int]] = {}
        self._cache: dict[str, torch.Tensor] = {}
        self._room = cache_mb << 20
        if self.square:
            cropped = getattr(self.images, "do_center_crop", False)
            shape = self.images.crop_size if cropped else self.images.size
            self._side = (shape["height"], shape["width"])
        if self.base:
            # (x * rescale - mean) / std = (x - mean / rescale) / (std / rescale): one pass less over pixels.
            self._mean = torch.tensor(self.images.image_mean).view(1, 3, 1, 1) / self.images.rescale_factor
            self._std = torch.tensor(self.images.image_std).view(1, 3, 1, 1) / self.images.rescale_factor
        self._ids = lru_cache(maxsize=10_000)(self._image_ids)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which decodes and counts for itself."""
        return {**vars(self), "_ids": None, "_cache": {}, "_room": self._room + self._cached()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._ids = lru_cache(maxsize=10_000)(self._image_ids)

    def _cached(self) -> int:
        return sum(tile.numel() for tile in self._cache.values())

    def tokens(self, pictures: Sequence[Picture]) -> list[int]:
        """Number of tokens that replace the placeholder of each picture of one sample. Raises ImageError.

        Reads the headers if the number depends on the size.
        """
        return [len(ids) for ids in self.image_ids(pictures)]

    def image_ids(self, pictures: Sequence[Picture]) -> list[np.ndarray]:
        """The tokens int32 [n] that replace each placeholder of one sample's pictures. Raises ImageError."""
        if self.square:  # each takes the same, whatever its size
            return [self._ids(self._side, False)] * len(pictures)
        single = len(pictures) == 1
        return [self._ids_of(picture, self._size(picture), single) for picture in pictures]

    def tokens_of_size(self, size: tuple[int, int], single: bool) -> int:
        """Number of tokens of an image from `read`, (height, width); `single`: the only one of its sample."""
        return len(self._ids(self._side if self.square else size, single and not self.square))

    def blank(self, picture: Picture) -> torch.Tensor:
        """Zeros of the shape that `read` gives for an image with a readable header but broken pixels."""
        return torch.zeros(3, *(self._side if self.square else image_size(picture)), dtype=torch.uint8)

    def read(self, picture: Picture) -> torch.Tensor:
        """uint8 RGB [3, H, W]: the square of "base" and "pad", else the whole image. Raises ImageError."""
        if not self.square:
            return decode(picture)
        key = None if isinstance(picture, Image.Image) else str(picture)
        if key is not None and key in self._cache:
            return self._cache[key]
        tile = self._square(decode(picture))
        if key is not None and self._room > 0:
            self._cache[key] = tile
            self._room -= tile.numel()
        return tile

    def batch(self, samples: Sequence[Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Pixel inputs for images from `read`, one list per sample; {} when no sample has an image.

        base: pixel_values float32 [images, 3, side, side], and what else the model wants for one tile each;
        else as the family's `pixels` says.
        """
        samples = [list(pixels) for pixels in samples if pixels]
        if not samples:
            return {}
        if not self.base:
            return self.family.pixels(self.processor, samples)
        tiles = torch.stack([tile for pixels in samples for tile in pixels])
        return self.family.tiles(tiles.float().sub_(self._mean).div_(self._std), self._side)

    def _square(self, pixels: torch.Tensor) -> torch.Tensor:
        _, height, width = pixels.shape
        if height != width:
            longest = max(height, width)
            mean = torch.tensor([int(m * 255) for m in self.images.image_mean], dtype=torch.uint8)
            canvas = mean.view(3, 1, 1).repeat(1, longest, longest)
            top, left = (longest - height) // 2, (longest - width) // 2
            canvas[:, top : top + height, left : left + width] = pixels
            pixels = canvas
        if tuple(pixels.shape[1:]) != self._side:
            pixels = tvf.resize(
                pixels, list(self._side), interpolation=_interpolation(self.images), antialias=True
            )
        return pixels

    def _size(self, picture: Picture) -> tuple[int, int]:
        return (self.sizes.get(str(picture)) if self.sizes else None) or image_size(picture)

    def _ids_of(self, picture: Picture, size: tuple[int, int], single: bool) -> np.ndarray:
        try:
            return self._ids(size, single)
        except ValueError as error:  # Qwen's processors refuse extreme aspect ratios
            raise ImageError(picture, "broken_image", str(error)) from error

    def _image_ids(self, size: tuple[int, int], single: bool) -> np.ndarray:
        return self.family.image_ids(self.processor, size, single)


def _interpolation(image_processor: Any) -> tvf.InterpolationMode:
    from transformers.image_utils import pil_torch_interpolation_mapping

    return pil_torch_interpolation_mapping[image_processor.resample]
