"""The one rule by which all of the project decodes an image, `rgb`, and where a record's image may lie."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from curation.pool.reasons import BadRecord

_XMP = "XML:com.adobe.xmp"
_CONVERTED = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "La", "PA", "RGBA", "RGBa")


class UnsupportedMode(ValueError):
    """An image whose pixel values have no known range, so that nobody can say how it looks."""


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Within this context PIL refuses truncated files.

    Importing some packages (lmms-eval) switches PIL, for the whole process, to filling missing parts with
    grey.
    """
    previous, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = previous


def rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB as a viewer shows it; training, signals, teacher and judge see these pixels.

    Turned upright as its EXIF orientation says; transparent pixels on white; 16 bits a pixel scaled to 8
    (v / 257, rounded); palette, grey, CMYK and others converted by PIL. Of an animation, the first frame.
    Returns the image itself if there is nothing to do. Raises UnsupportedMode for floating-point pixels, for
    integers beyond 16 bits, and for colour spaces that PIL does not convert (LAB); and what PIL raises for
    damaged data, so use it within `strict_decoding`.
    """
    if orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise UnsupportedMode(f"mode {image.mode} with values from {values.min()} to {values.max()}")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode not in _CONVERTED:
        raise UnsupportedMode(f"mode {image.mode}")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8, from the header alone; 1 if it has none or an invalid one."""
    if image.format == "TIFF":  # Pillow gives a TIFF's size, and turns it while decoding, by itself
        return 1
    # It would decode a PNG to look for EXIF data behind the pixels; `upright_size` must not, and must agree.
    if image.format == "PNG" and not {"exif", "Raw profile type exif", _XMP} & image.info.keys():
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of `rgb(image)` in pixels, from the header alone."""
    width, height = image.size
    return (width, height) if orientation(image) >= 5 else (height, width)


def is_plain(image: Image.Image) -> bool:
    """Whether any reader decodes the image to the pixels of `rgb`, so that its file can be sent as it is."""
    return (
        image.mode in ("1", "L", "P", "RGB") and orientation(image) == 1 and not image.has_transparency_data
    )


def path_inside(root: str, name: str) -> str:
    """The path of the image that a record names, in the folder `root`.

    Folders inside `root` may be links: whoever set it up wanted them, and records cannot make any. Raises
    BadRecord (image_outside) for an absolute path or one with `..` that leaves `root`, and for a file that is
    a link out of it.
    """
    path, top = os.path.join(root, name), os.path.abspath(root)
    inside = _is_below(os.path.abspath(path), top)
    if inside and "\0" not in name and (".." in name.split("/") or os.path.islink(path)):
        inside = _is_below(os.path.realpath(path), os.path.realpath(top))
    if not inside:
        raise BadRecord(
            "image_outside",
            f"{name} is not in {root}; --images takes a folder that holds it, --allow-outside reads it",
        )
    return path


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)
