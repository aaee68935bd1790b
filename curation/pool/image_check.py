"""What one image file holds, and whether it is sound: from its header and last bytes, or decoded in full."""

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import BytesIO
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from curation.pool.images import UnsupportedMode, orientation, path_inside, rgb, strict_decoding
from curation.pool.reasons import BadRecord

LEVELS = ("header", "full")
MAX_PIXELS = 89_478_485
"""Pillow's own `MAX_IMAGE_PIXELS` (256 MiB as RGB), above which it warns of a file that was made to fill the
memory. At twice as many it refuses to open the file, whatever the limit here."""
MAX_BYTES = 1 << 30
"""A file is read whole at level full; no image of `MAX_PIXELS` pixels is as large."""

# Not EPS and the like, for which Pillow starts another program or knows the header only.
FORMATS = tuple("JPEG PNG GIF WEBP BMP DIB TIFF AVIF JPEG2000 PPM TGA ICO PCX QOI DDS SGI ICNS PSD".split())

# Cameras and editors append a few bytes after the end marker, so it is searched in the last bytes, not at the
# very end.
_TAIL_BYTES = 64
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x00\x3b"}
_PNG_SIGNATURE = 8
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)


@dataclass(slots=True)
class Facts:
    """A row of images.parquet but for its number and path; what is not known stays None.

    size: bytes of the file. width, height: upright, in pixels. alpha: whether pixels may be transparent.
    frames: None where all frames have to be read to count them. bytes_hash: blake2b of the file, 16 bytes.
    phash: see `curation.pool.phash`. reason, detail: why the image cannot be used, None if it is sound.
    mtime_ns: when the file was last changed.
    """

    size: int | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    format: str | None = None
    alpha: bool | None = None
    orientation: int | None = None
    frames: int | None = None
    bytes_hash: bytes | None = None
    phash: int | None = None
    reason: str | None = None
    detail: str | None = None
    mtime_ns: int | None = None

    def row(self) -> tuple:
        """The values in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Check:
    """How files are checked; calling it with the name of an image gives its Facts. Never raises for a file.

    root: the folder that names are relative to. level: "header" (the header parses, and the format's end
    marker stands in the last bytes; of a WebP the length says it; any other file is decoded) or "full" (every
    file is decoded; libjpeg's warnings and wrong checksums of PNG chunks count as damage; hashes and frames
    are known).
    """

    root: str
    level: str
    allow_outside: bool = False
    max_pixels: int = MAX_PIXELS

    def __call__(self, name: str) -> Facts:
        facts = Facts()
        try:
            path = self.path(name)
            with _opened(path, facts) as file:
                (self._full if self.level == "full" else self._header)(file, path, facts)
        except BadRecord as bad:
            facts.reason, facts.detail = bad.reason, bad.detail
        except OSError as error:  # while it is read: a disk or a network that fails
            failed = BadRecord("image_broken", f"{error.strerror or error}: {name}")
            facts.reason, facts.detail = failed.reason, failed.detail
        return facts

    def path(self, name: str) -> str:
        """Where the image lies. Raises BadRecord (image_outside)."""
        return os.path.join(self.root, name) if self.allow_outside else path_inside(self.root, name)

    def _header(self, file: BinaryIO, path: str, facts: Facts) -> None:
        image = self._open(file, path, facts)
        file.seek(max((facts.size or 0) - _TAIL_BYTES, 0))
        if facts.format != "WEBP" and not _ends(file.read(), facts.format):
            with _blamed_on_file(path, "image_truncated"):
                rgb(image).load()
        # Counting the frames of other formats means reading the file to its end.
        facts.frames = getattr(image, "n_frames", 1) if facts.format not in ("GIF", "TIFF") else None

    def _full(self, file: BinaryIO, path: str, facts: Facts) -> None:
        from curation.pool.phash import phash

        if (facts.size or 0) > MAX_BYTES:
            raise BadRecord("image_too_large", f"{facts.size:,} bytes, more than {MAX_BYTES:,}: {path}")
        data = file.read()
        facts.bytes_hash = hashlib.blake2b(data, digest_size=16).digest()
        image = self._open(BytesIO(data), path, facts)
        if facts.format == "PNG":
            _check_chunks(data, path)
        decoded = _decode_jpeg(image, data, path) if facts.format in ("JPEG", "MPO") else image
        with _blamed_on_file(path, "image_truncated"):
            facts.phash = phash(rgb(decoded))
        with _blamed_on_file(path, "image_broken"):
            facts.frames = getattr(image, "n_frames", 1)

    def _open(self, file: BinaryIO, path: str, facts: Facts) -> Image.Image:
        """The image with its header read, which is written to `facts` and checked."""
        _check_riff(file, path, facts.size or 0)
        with _blamed_on_file(path, "image_broken"):
            image = Image.open(file, formats=FORMATS)
        facts.format, facts.mode = image.format, image.mode
        facts.width, facts.height = image.size
        if image.width * image.height > self.max_pixels:
            raise BadRecord(
                "image_too_large",
                f"{image.width:,} x {image.height:,} pixels, more than {self.max_pixels:,}: {path}",
            )
        with _blamed_on_file(path, "image_broken"):
            facts.orientation, facts.alpha = orientation(image), image.has_transparency_data
        if facts.orientation >= 5:
            facts.height, facts.width = image.size
        if image.mode in ("F", "LAB"):
            raise BadRecord("unsupported_mode", f"mode {image.mode}: {path}")
        return image


@contextmanager
def _opened(path: str, facts: Facts) -> Iterator[BinaryIO]:
    """The file, opened for reading; its size and time are written to `facts`."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadRecord("image_missing", f"a folder: {path}")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise BadRecord("image_broken", f"not a regular file: {path}")
        facts.size, facts.mtime_ns = status.st_size, status.st_mtime_ns
        if not status.st_size:
            raise BadRecord("image_empty", path)
        file = open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise BadRecord("image_missing", path) from None
    except OSError as error:
        raise BadRecord("image_broken", f"{error.strerror}: {path}") from None
    except BadRecord:
        raise
    except ValueError:  # a null byte or a lone surrogate in the name
        raise BadRecord("image_missing", path) from None
    with file:
        yield file


@contextmanager
def _blamed_on_file(path: str, reason: str) -> Iterator[None]:
    """What PIL raises within becomes BadRecord (`reason`, unsupported_mode, image_too_large, image_crash)."""
    try:
        with strict_decoding():
            yield
    except UnsupportedMode as error:
        raise BadRecord("unsupported_mode", f"{error}: {path}") from None
    except Image.DecompressionBombError as error:
        raise BadRecord("image_too_large", f"{error}: {path}") from None
    except MemoryError:
        raise BadRecord("image_crash", f"not enough memory to decode {path}") from None
    except UnidentifiedImageError:  # its own message names an object in memory, another in each run
        raise BadRecord(reason, f"no image of a known format: {path}") from None
    except _DECODE_ERRORS as error:
        raise BadRecord(reason, f"{error}: {path}") from None
    except Exception as error:  # a damaged file makes PIL's plugins raise errors of every kind
        raise BadRecord(reason, f"{type(error).__name__} {error}: {path}") from None


def _ends(tail: bytes, kind: str | None) -> bool:
    """Whether the last bytes of a file hold the end marker of its format; False if it has none."""
    marker = _END_MARKERS.get(kind or "")
    if marker is None:
        return False
    # two bytes that compressed data of a GIF may hold too: only at the very end they are a sign
    return tail.endswith(marker) if kind == "GIF" else marker in tail


def _check_riff(file: BinaryIO, path: str, size: int) -> None:
    """A WebP file says its length. Raises BadRecord (image_truncated) if it is shorter."""
    head = file.read(12)
    file.seek(0)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        (length,) = struct.unpack("<I", head[4:8])
        if length + 8 > size:
            raise BadRecord("image_truncated", f"{size:,} of {length + 8:,} bytes: {path}")


def _check_chunks(data: bytes, path: str) -> None:
    """Raises BadRecord for a PNG with a wrong checksum (image_broken) or no end (image_truncated)."""
    at = _PNG_SIGNATURE
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadRecord("image_broken", f"wrong checksum of the chunk {kind.decode('latin-1')}: {path}")
        if kind == b"IEND":
            return
        at = end + 4
    raise BadRecord("image_truncated", f"it ends before its IEND chunk: {path}")


def _decode_jpeg(image: Image.Image, data: bytes, path: str) -> Image.Image:
    """The pixels of a JPEG, the same as PIL's. Raises BadRecord where PIL fills a gap without a word."""
    from simplejpeg import decode_jpeg

    space = {"L": "GRAY", "RGB": "RGB"}.get(image.mode, "CMYK")
    try:
        array = decode_jpeg(data, space, strict=True)
    except ValueError as error:
        if _decodes(data, space):
            short = "premature end" in str(error).lower()
            raise BadRecord("image_truncated" if short else "image_broken", f"{error}: {path}") from None
        return image  # not libjpeg's warning but a file that this library does not read; PIL may
    if space == "CMYK":
        return image
    pixels = Image.fromarray(array[..., 0] if space == "GRAY" else array)
    pixels.info = image.info  # which holds the orientation
    return pixels


def _decodes(data: bytes, space: str) -> bool:
    from simplejpeg import decode_jpeg

    try:
        decode_jpeg(data, space, strict=False)
    except ValueError:
        return False
    return True
