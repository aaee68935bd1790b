"""The hash is ImageHash's, on the pixels that a viewer shows; near copies are near and others are not."""

import io
from itertools import combinations
from pathlib import Path

import imagehash
import pytest
from PIL import Image, ImageEnhance

import curation.mini
from curation.pool.images import rgb
from curation.pool.phash import phash

PHOTOS = [
    Image.open(path).convert("RGB")
    for path in sorted((Path(curation.mini.__file__).parent / "assets" / "photos").iterdir())
]

NEAR = 6
"""Bits within which copies stay, where nothing is cut off."""


def distance(first, second):
    return (phash(first) ^ phash(second)).bit_count()


def stored(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


COPIES = {
    "jpeg 75": lambda image: stored(image, "JPEG", quality=75),
    "jpeg 30": lambda image: stored(image, "JPEG", quality=30),
    "webp": lambda image: stored(image, "WEBP"),
    "palette": lambda image: stored(image, "GIF"),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "half, jpeg 50": lambda image: stored(
        image.resize((image.width // 2, image.height // 2)), "JPEG", quality=50
    ),
    "square": lambda image: image.resize((336, 336)),
    "grey": lambda image: image.convert("L"),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_photographs_lie_within_the_distance(kind):
    assert len(PHOTOS) == 12
    assert all(distance(photo, rgb(COPIES[kind](photo))) <= NEAR for photo in PHOTOS)


def test_different_photographs_do_not():
    distances = [distance(*pair) for pair in combinations(PHOTOS, 2)]
    assert min(distances) > 2 * NEAR


def test_the_hash_is_imagehashs_in_64_bits():
    for photo in PHOTOS:
        assert phash(photo) == int(str(imagehash.phash(photo)), 16) < 1 << 64


def test_a_photo_with_its_camera_on_the_side_is_the_upright_one():
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = PHOTOS[0].transpose(Image.Transpose.ROTATE_90)
    assert distance(rgb(stored(lying, "PNG", exif=exif)), PHOTOS[0]) == 0
    assert distance(rgb(stored(lying, "PNG")), PHOTOS[0]) > NEAR
