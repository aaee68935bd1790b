"""Whether two pictures show the same, looked at again where perceptual hashes are near.

    agreement(thumbnail(path_a), thumbnail(path_b)) >= SAME

A perceptual hash keeps 64 bits of the coarsest structure. All pages of text, forms, screenshots and charts of
one layout have near hashes, and pictures of one colour have the same one. A thumbnail of 64 x 64 pixels is
compared tile by tile, so that what differs in one place (other words, other bars) counts; against cropped
copies too, each way. tests/benchmarks/dedup.py measures both on copies and on look-alikes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from curation.pool.images import rgb, strict_decoding

SAME = 0.97
"""Smallest share of tiles that agree, so that at most one of 64 may differ: nearly all of what was stored
again, made smaller, cropped or given other contrast has 1.0; other forms of one layout have up to 0.969, and
a line of added text makes 0.94 to 0.97."""
FLAT_BITS = 28
"""A hash of fewer bits is of a picture of one colour: a hash has 32 unless most frequencies are exactly 0."""
_SIDE, _TILE = 64, 8
_CROPS = (0.0, 0.01, 0.025, 0.05)  # of each side
_NOISE = 4.0  # levels of 255: a tile of less contrast has no structure to compare
_CORRELATION = 0.8
_BRIGHTER, _OTHER_COLOUR = 48.0, 8.0
"""Levels: largest difference of the means of tiles without structure, beside others, and alone."""


def is_flat(hashes: np.ndarray) -> np.ndarray:
    """Whether perceptual hashes uint64[n] are of pictures without structure, which they do not tell apart."""
    return np.bitwise_count(hashes) < FLAT_BITS


@dataclass(frozen=True)
class Thumbnail:
    """A picture, and what is left of it when 1, 2.5 and 5 % of each side are cut, in 64 tiles of 8 x 8.

    means: float32[4, 64, 3], levels of 0..255; contrast: float32[4, 64, 192], the pixels less the mean of
    their tile; power: float32[4, 64], mean square of the contrast.
    """

    means: np.ndarray
    contrast: np.ndarray
    power: np.ndarray


@lru_cache(maxsize=1024)
def thumbnail(path: str) -> Thumbnail:
    """The thumbnail of an image file. Raises what PIL raises for a file that cannot be decoded."""
    with strict_decoding(), Image.open(path) as image:
        image.draft(None, (4 * _SIDE, 4 * _SIDE))  # a JPEG is decoded at about this size
        return shrunk(rgb(image))


def shrunk(image: Image.Image) -> Thumbnail:
    """The thumbnail of a decoded RGB image."""
    width, height = image.size
    boxes = [(width * cut, height * cut, width * (1 - cut), height * (1 - cut)) for cut in _CROPS]
    small = [image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box) for box in boxes]
    pixels = np.stack([np.asarray(each, np.float32) for each in small])
    count = _SIDE // _TILE
    tiles = (
        pixels.reshape(-1, count, _TILE, count, _TILE, 3).swapaxes(2, 3).reshape(-1, count**2, 3 * _TILE**2)
    )
    contrast = tiles - tiles.mean(axis=2, keepdims=True)
    means = tiles.reshape(*tiles.shape[:2], -1, 3).mean(axis=2)
    return Thumbnail(means, contrast, np.square(contrast).mean(axis=2))


def agreement(a: Thumbnail, b: Thumbnail) -> float:
    """Share of the tiles with structure in which two pictures agree, at the best of the crops: 0 to 1."""
    crops = [(0, at) for at in range(len(_CROPS))] + [(at, 0) for at in range(1, len(_CROPS))]
    return max(_agreement(a, x, b, y) for x, y in crops)


def _agreement(a: Thumbnail, x: int, b: Thumbnail, y: int) -> float:
    differing = np.abs(a.means[x] - b.means[y]).max(axis=1)
    structured = np.maximum(a.power[x], b.power[y]) > _NOISE**2
    if not structured.any():
        return float((differing <= _OTHER_COLOUR).mean())
    if (differing > _BRIGHTER)[~structured].any():
        return 0.0
    scale = np.sqrt(np.maximum(a.power[x] * b.power[y], 1e-12))
    correlation = (a.contrast[x] * b.contrast[y]).mean(axis=1) / scale
    return float((correlation[structured] > _CORRELATION).mean())
