"""JSON text in other wrappings: compressed, in UTF-16 or UTF-32, or as one object of records by id."""

import codecs
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation.atomic import replacing
from curation.pool.errors import PoolError
from curation.pool.inputs.codecs import opened
from curation.pool.inputs.drafts import Drafts
from curation.pool.reasons import BadRecord

_CHUNK = 1 << 20
_MAX_RECORD_CHARS = 1 << 28
_SPACE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.S)


def write_plain(path: Path, codec: str | None, encoding: str | None, out: Path) -> None:
    """Write the text as UTF-8, otherwise as it is. Raises PoolError if it is damaged or cut off.

    A lone surrogate of UTF-16 becomes bytes that are not UTF-8, so that its record is quarantined and
    not the file refused.
    """
    with replacing(out) as temporary, temporary.open("wb") as file, opened(path, codec) as source:
        if encoding is None:
            shutil.copyfileobj(source, file, _CHUNK)
            return
        for text in _decoded(source, path, encoding):
            file.write(text.encode("utf-8", "surrogatepass"))


def add_records(path: Path, codec: str | None, encoding: str | None, drafts: Drafts) -> Iterator[None]:
    """Add the values of one JSON object in order; a record without an id gets its key as id.

    Yields now and then. Raises PoolError for text that is no such object.
    """
    with opened(path, codec) as source:
        texts = _decoded(source, path, encoding or "utf-8-sig")
        for number, (key, value) in enumerate(_Pairs(path, texts).read()):
            if isinstance(value, BadRecord):
                drafts.add_unreadable(number, key, value)
            elif not isinstance(value, dict):
                drafts.add_unreadable(number, key, BadRecord("not_an_object", type(value).__name__))
            else:
                drafts.add(value if value.get("id") is not None else value | {"id": key}, number)
            if number % 256 == 0:
                yield


def _decoded(source: Any, path: Path, encoding: str) -> Iterator[str]:
    errors = "strict" if encoding == "utf-8-sig" else "surrogatepass"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    read = 0
    try:
        while data := source.read(_CHUNK):
            yield decoder.decode(data)
            read += len(data)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise PoolError(
            f"{path}: not {encoding} near byte {read + error.start:,} ({error.reason}); download it again"
        ) from None


class _Pairs:
    """The keys and values of a JSON object, read piece by piece."""

    def __init__(self, path: Path, texts: Iterator[str]) -> None:
        self._path, self._texts, self._buffer, self._at = path, texts, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def read(self) -> Iterator[tuple[str, Any]]:
        """(key, value), the value a BadRecord where no reader can hold it."""
        self._expect("{")
        if self._peek() == "}":
            return
        number = 0
        while True:
            key = self._value(number)
            if not isinstance(key, str):
                raise self._invalid(number, "a key is no text")
            self._expect(":", number)
            self._peek()
            yield key, self._value(number)
            number += 1
            if self._peek() == "}":
                self._at += 1
                break
            self._expect(",", number)
            self._peek()
        if self._peek():
            raise self._invalid(number, "text follows the end of the object")

    def _value(self, number: int) -> Any:
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
                if end < len(self._buffer) or not self._fill():
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                # a cut literal or escape is reported at its start
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 16
                if not cut:
                    raise self._invalid(number, error.msg) from None
                self._more(number)
            except (RecursionError, ValueError) as error:
                if (end_of := self._end()) is not None:
                    self._at = end_of
                    said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                    return BadRecord("broken_json", said)
                self._more(number)

    def _end(self) -> int | None:
        depth = 0
        for match in _STRUCTURE.finditer(self._buffer, self._at):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
            if not depth:
                return match.end()
        return None

    def _peek(self) -> str:
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._fill():
                return ""

    def _expect(self, char: str, number: int = 0) -> None:
        if (found := self._peek()) != char:
            raise self._invalid(
                number, f"expected {char!r}, found {found!r}" if found else "the file is truncated"
            )
        self._at += 1

    def _more(self, number: int) -> None:
        if not self._fill(len(self._buffer) - self._at):
            raise self._invalid(number, "the file is truncated")
        if len(self._buffer) - self._at > _MAX_RECORD_CHARS:
            raise self._invalid(number, f"it does not end within {_MAX_RECORD_CHARS:,} characters")

    def _fill(self, at_least: int = 1) -> bool:
        """Read on, as much again as is there already, so that a long record is scanned few times."""
        pieces, size = [self._buffer[self._at :]], 0
        while size < at_least and (text := next(self._texts, None)) is not None:
            pieces.append(text)
            size += len(text)
        if size:
            self._buffer, self._at = "".join(pieces), 0
        return size > 0

    def _invalid(self, number: int, what: str) -> PoolError:
        return PoolError(
            f"{self._path}: not valid JSON at record {number} (counted from 0) of its object: {what}"
        )
