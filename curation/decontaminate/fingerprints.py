"""What of an image is compared: hash of the file, hash of the pixels, perceptual hash, and a small copy."""

import hashlib
import io
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.pool.images import rgb, strict_decoding
from curation.pool.phash import phash

SIDE = 32
"""Pixels of a side of the small copy."""
FLAT = 2.0
"""Standard deviation of the small copy, in levels of 0..255, below which an image shows nothing to compare.
"""
_AHEAD = 128  # images that are decoded at a time
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Fingerprint:
    """`file`: blake2b-16 of the bytes, as `bytes_hash` of a pool; None for an image without a file.

    `pixels`: blake2b-16 of size and RGB pixels; `phash`: see `curation.pool.phash`; `small`: uint8
    [SIDE, SIDE, 3].
    """

    file: bytes | None
    pixels: bytes
    phash: int
    small: NDArray[np.uint8]

    @property
    def is_flat(self) -> bool:
        """Whether the image shows (nearly) one colour, as all such images do."""
        return bool(self.small.astype(np.float32).std(axis=(0, 1)).max() < FLAT)


def fingerprint(image: bytes | Image.Image) -> Fingerprint | None:
    """Of a file's bytes or of a decoded image; None if it cannot be decoded."""
    file = file_hash(image) if isinstance(image, bytes) else None
    try:
        with strict_decoding():
            picture = rgb(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image)
            picture.load()
    except UNREADABLE:
        return None
    pixels = hashlib.blake2b(f"{picture.size}".encode(), digest_size=16)
    pixels.update(picture.tobytes())
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return Fingerprint(file, pixels.digest(), phash(picture), np.asarray(small))


def file_hash(content: bytes) -> bytes:
    """The hash by which equal files are found."""
    return hashlib.blake2b(content, digest_size=16).digest()


def likeness(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Pearson correlation and mean absolute difference (0..255) of a small copy with each of [n, SIDE, SIDE,
    3].

    Both over all pixels and channels, so that another colour counts as much as another shape.
    """
    a = one.reshape(-1).astype(np.float32)
    b = others.reshape(len(others), -1).astype(np.float32)
    difference = np.abs(b - a).mean(axis=1)
    a, b = a - a.mean(), b - b.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    return np.divide(b @ a, scale, out=np.zeros(len(b), np.float32), where=scale > 0), difference


def in_order(given: Iterable[Given], work: Callable[[Given], Made], workers: int) -> Iterator[Made]:
    """`work` of each in turn, by threads (PIL decodes outside Python's lock); few are in memory at a time."""
    given = iter(given)
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        while block := list(islice(given, _AHEAD)):
            yield from pool.map(work, block)
