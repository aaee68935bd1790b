"""Read the records of a LLaVA file one by one, with their byte offsets, in bounded memory.

Two layouts are read: one JSON list (`[{...}, {...}]`, any white space) and JSON Lines.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from curation.pool.errors import BrokenJson

CHUNK_BYTES = 1 << 22
MAX_RECORD_CHARS = 1 << 28
_SPACE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.S)
"""Strings, and the brackets outside of them."""
_AFTER_NUMBER = re.compile(r"[\s,\]]")


class Located(NamedTuple):
    """One record: `length` bytes from byte `offset`. `fault` says why `value` could not be parsed."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    offset: int
    length: int
    value: Any
    fault: str | None = None


def read_records(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Located]:
    """Records of `path` in file order.

    Raises BrokenJson, with the byte offset, if a list is cut off or malformed, if the last line of a JSON
    Lines file is cut off, or if the file has neither layout. A broken line in the middle is yielded with its
    `fault`.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        first = head[start:].lstrip()[:1]
        file.seek(start)
        if first == b"[":
            yield from _read_list(_Window(file, path, start, chunk_bytes))
        elif first == b"{":
            yield from _read_lines(file, path, start)
        else:
            what = "is empty" if not head else "starts with neither '[' (a JSON list) nor '{' (JSON Lines)"
            raise BrokenJson(f"{path} {what}; a pool is built from LLaVA records", start)


def _read_lines(file: Any, path: Path, offset: int) -> Iterator[Located]:
    index = 0
    for line in file:
        text = line.strip()
        if text:
            begin = offset + line.index(text)
            value, fault = _parse_line(text)
            if fault and index == 0:
                raise BrokenJson(
                    f"{path}: the first line is not a complete JSON record ({fault}); expected a JSON list "
                    "or one record per line",
                    begin,
                )
            if fault and not line.endswith(b"\n"):
                raise _truncated(path, index, begin)
            yield Located(index, begin, len(text), value, fault)
            index += 1
        offset += len(line)


def _parse_line(text: bytes) -> tuple[Any, str | None]:
    try:
        return json.loads(text), None
    except (RecursionError, ValueError) as error:
        return None, _fault(error)


def _fault(error: RecursionError | ValueError) -> str:
    """Why a value cannot be parsed: besides bad syntax and encoding, nesting or an integer's digits."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_list(window: "_Window") -> Iterator[Located]:
    window.peek()
    window.advance(1)
    index = 0
    if window.peek() != "]":
        while True:
            yield window.decode(index)
            index += 1
            char = window.peek()
            if char == "":
                raise _truncated(window.path, index, window.offset)
            if char not in ",]":
                raise window.invalid(index, f"expected ',' or ']' after a record, found {char!r}")
            if char == "]":
                break
            window.advance(1)
            window.peek()
    window.advance(1)
    if window.peek():
        raise window.invalid(index, "text follows the end of the list")


class _Window:
    """A part of the file as text: `buffer[position]` is the next character, `offset` its place in bytes."""

    def __init__(self, file: Any, path: Path, offset: int, chunk_bytes: int) -> None:
        self.path, self.offset = path, offset
        self._file, self._chunk, self._end = file, chunk_bytes, False
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self.buffer, self.position = "", 0

    def advance(self, count: int) -> int:
        """Move forward by `count` characters; returns their number of bytes."""
        piece = (
            self.buffer
            if self.buffer.isascii()
            else self.buffer[self.position : self.position + count].encode()
        )
        size = count if piece is self.buffer else len(piece)
        self.position += count
        self.offset += size
        return size

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            space = _SPACE.match(self.buffer, self.position)
            self.advance(space.end() - self.position if space else 0)
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if self._end:
                return ""
            self._fill(self._chunk)

    def decode(self, index: int) -> Located:
        """Parse the record that starts here, reading more of the file as needed."""
        more = self._chunk
        while True:
            try:
                value, end = self._scan(self.buffer, self.position)
            except json.JSONDecodeError as error:
                self._refuse_unless_incomplete(error, index)
            except (RecursionError, ValueError) as error:  # complete or not, no reader can hold it
                if end := self._end_of_value():
                    offset = self.offset
                    return Located(index, offset, self.advance(end - self.position), None, _fault(error))
                if self._end:
                    raise _truncated(self.path, index, self.offset) from None
            else:
                # A number at the end of the buffer may be incomplete: "1" could go on as "1e-9".
                if len(self.buffer) - end > 2 or self._end:
                    offset = self.offset
                    return Located(index, offset, self.advance(end - self.position), value)
            if len(self.buffer) - self.position > MAX_RECORD_CHARS:
                raise self.invalid(index, f"the record does not end within {MAX_RECORD_CHARS:,} characters")
            self._fill(more)
            more *= (
                2  # each scan starts over, so doubling keeps a long record from being scanned once per chunk
            )

    def _end_of_value(self) -> int | None:
        """The position after the number or the closing bracket; None if that is not in the buffer."""
        if self.buffer[self.position] not in "[{":
            found = _AFTER_NUMBER.search(self.buffer, self.position)
            return found.start() if found else None
        depth = 0
        for match in _STRUCTURE.finditer(self.buffer, self.position):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
            if not depth:
                return match.end()
        return None

    def _refuse_unless_incomplete(self, error: json.JSONDecodeError, index: int) -> None:
        # json reports a truncated literal or escape at its start, up to 16 characters before the end of the
        # buffer.
        incomplete = error.msg.startswith("Unterminated string") or error.pos >= len(self.buffer) - 16
        if not incomplete:
            raise self.invalid(index, error.msg, error.pos - self.position) from None
        if self._end:
            raise _truncated(self.path, index, self.offset) from None

    def _fill(self, count: int) -> None:
        data = self._file.read(count)
        self._end = len(data) < count
        try:
            text = self._text.decode(data, final=self._end)
        except UnicodeDecodeError as error:
            at = self._file.tell() - len(error.object) + error.start
            raise BrokenJson(
                f"{self.path}: byte {at:,} is not UTF-8 ({error.reason}); convert the file first", at
            ) from None
        self.buffer = self.buffer[self.position :] + text
        self.position = 0

    def invalid(self, index: int, what: str, ahead: int = 0) -> BrokenJson:
        """The error for a list that is malformed `ahead` characters from the current position."""
        self.advance(ahead)
        return BrokenJson(
            f"{self.path}: not valid JSON at byte {self.offset:,}, in or after record {index} "
            f"(counted from 0): {what}; repair the file or download it again",
            self.offset,
        )


def _truncated(path: Path, index: int, offset: int) -> BrokenJson:
    partial = f", or build a pool of the complete records with --limit {index}" if index else ""
    return BrokenJson(
        f"{path} is truncated: it ends inside or right after record {index} (counted from 0), which starts "
        f"at byte {offset:,}; {index:,} complete records precede it. Fetch the file again (compare its size "
        f"with the publisher's){partial}",
        offset,
    )
