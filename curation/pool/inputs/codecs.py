"""Compressed files as streams of bytes that end with an error, not silently, if they are cut off."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from curation.pool.errors import PoolError

CODECS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
"""Codec -> the bytes that a file begins with."""
_CHUNK = 1 << 20
_STEP = 1 << 12
"""zstd can make 128 KiB of four bytes, all at once: the step bounds what one of it gives."""
_MAX_RATIO, _FREE = 300, 1 << 28
"""Text shrinks to a tenth; what grows more than 300 times (beyond 256 MiB) was made to fill a disk."""
_MAX_WINDOW = 1 << 28


@contextmanager
def opened(path: Path, codec: str | None) -> Iterator[BinaryIO]:
    """The content of a file, decompressed while it is read. Raises PoolError if it is damaged or cut off."""
    try:
        with path.open("rb") as file:
            if codec is None:
                yield file
                return
            inner: io.RawIOBase = _Zstd(file) if codec == "zstd" else _Gzip(file)
            yield io.BufferedReader(_Bounded(inner, path, path.stat().st_size), _CHUNK)
    except EOFError:
        raise PoolError(f"{path} ({codec}) is truncated; download it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise PoolError(f"{path} ({codec}) is damaged ({error}); download it again") from None


class _Gzip(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        self._file = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(target)


class _Zstd(io.RawIOBase):
    """Frames one after the other; the library's own reader takes a cut file for a complete one."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file, self._error = file, zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj
        self._frame, self._left = self._new(), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            ended = self._frame.eof
            data = (self._frame.unused_data if ended else b"") or self._file.read(_STEP)
            if not data and ended:
                return 0
            if not data:
                raise EOFError
            if ended:
                self._frame = self._new()
            try:
                self._left = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise zlib.error(str(error)) from None
        count = min(len(target), len(self._left))
        target[:count], self._left = self._left[:count], self._left[count:]
        return count


class _Bounded(io.RawIOBase):
    """Raises PoolError once far more has come out than went in."""

    def __init__(self, inner: io.RawIOBase, path: Path, size: int) -> None:
        self._inner, self._path, self._size, self._read = inner, path, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        count = self._inner.readinto(target) or 0
        self._read += count
        if self._read > max(_FREE, _MAX_RATIO * self._size):
            raise PoolError(
                f"{self._path} grows more than {_MAX_RATIO} times when unpacked, as no text does; unpack it "
                "yourself if you trust it"
            )
        return count
