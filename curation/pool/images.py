"""Whether an image file exists and is complete, by its header and last bytes; decoded only if in doubt."""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile

from curation.pool.record import BadRecord

# Cameras and editors append a few bytes after the end marker, so it is searched in the last bytes, not at the
# very end.
_TAIL_BYTES = 64
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x00\x3b"}
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


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


def path_inside(root: str, name: str) -> str:
    """The path of the image that a record names, in the folder `root`.

    Folders inside `root` may be links: whoever set it up wanted them. Raises BadRecord (image_outside) for an
    absolute path or one with `..` that leaves `root`, and for a file that is a link out of it.
    """
    path, top = os.path.join(root, name), os.path.abspath(root)
    inside = _is_below(os.path.abspath(path), top)
    if inside and "\0" not in name and (".." in name.split("/") or os.path.islink(path)):
        inside = _is_below(os.path.realpath(path), os.path.realpath(top))
    if not inside:
        raise BadRecord(
            "image_outside", f"{name} is not in {root}; --images takes a folder that holds it"[:300]
        )
    return path


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def image_bytes(path: str) -> int:
    """Size of a usable image file in bytes.

    The header must parse. A file with its format's end marker in its last bytes counts as complete; any other
    file is decoded to find out. Raises BadRecord (image_missing, image_empty, image_broken, image_truncated).
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for its writer
            raise BadRecord("image_broken", f"{path}: not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise BadRecord("image_empty", path)
            _check_complete(file, path, size)
            return size
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord("image_missing", path) from None
    except OSError as error:
        raise BadRecord("image_broken", f"{path}: {error.strerror}") from None


def _check_complete(file: BinaryIO, path: str, size: int) -> None:
    try:
        image = Image.open(file)
    except _DECODE_ERRORS as error:
        raise BadRecord("image_broken", f"{path}: {error}"[:300]) from None
    file.seek(max(size - _TAIL_BYTES, 0))
    marker = _END_MARKERS.get(image.format or "")
    tail = file.read(_TAIL_BYTES)
    # two bytes that compressed data of a GIF may hold too: only at the very end they are a sign
    if marker and (tail.endswith(marker) if image.format == "GIF" else marker in tail):
        return
    try:
        with strict_decoding():
            image.load()
    except _DECODE_ERRORS as error:
        raise BadRecord("image_truncated", f"{path}: {error}"[:300]) from None
