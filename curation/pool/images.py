"""Is this image file there, and whole? Answered from its header and its last bytes, decoded only in doubt."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile

from curation.pool.record import BadRecord

_TAIL_BYTES = 64
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Inside, PIL refuses truncated files; importing some packages (lmms-eval) makes it fill them with grey instead."""
    found, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = found


def image_bytes(path: str) -> int:
    """Size of a usable image file in bytes.

    The header must parse. A file that carries its format's end mark in its last bytes counts as whole; any other one
    is decoded, which settles it. Raises BadRecord (image_missing, image_empty, image_broken, image_truncated).
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise BadRecord("image_empty", path)
            _check_whole(file, path, size)
            return size
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord("image_missing", path) from None
    except OSError as error:
        raise BadRecord("image_broken", f"{path}: {error.strerror}") from None


def _check_whole(file: BinaryIO, path: str, size: int) -> None:
    try:
        image = Image.open(file)
    except _DECODE_ERRORS as error:
        raise BadRecord("image_broken", f"{path}: {error}"[:300]) from None
    file.seek(max(size - _TAIL_BYTES, 0))
    mark = _END_MARKS.get(image.format or "")
    if mark and mark in file.read(_TAIL_BYTES):
        return
    try:
        with strict_decoding():
            image.load()
    except _DECODE_ERRORS as error:
        raise BadRecord("image_truncated", f"{path}: {error}"[:300]) from None
