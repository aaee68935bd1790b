"""Read the records of a LLaVA file, whole or a range of its bytes, with their offsets, in bounded memory.

Two layouts are read: one JSON list (`[{...}, {...}]`, any white space) and JSON Lines. Records are bytes that
`decode` parses; a record that cannot be parsed costs itself alone in either layout.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import xxhash

from curation.pool.errors import BrokenJson

CHUNK_BYTES = 1 << 18
MAX_RECORD_BYTES = 1 << 26
_HEAD_BYTES = 1 << 16
_GUESS_BYTES = 1 << 16
_LOOK_BACK = 1 << 12
"""Between two records stands a comma and white space; a guess looks back as far for them."""
_SPACE = re.compile(rb"[ \t\r\n]*")
_GAP = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_STRING = re.compile(_TEXT, re.S)
_FIRST_KEY = re.compile(rb"\{\s*(" + _TEXT + rb")\s*:", re.S)
_STRUCTURE = re.compile(_TEXT + rb'|[\[\]{}"]', re.S)
"""Strings, the brackets outside of them, and the quote of a string that does not end."""
_AFTER_SCALAR = re.compile(rb"[\s,\]]")
_SPACED_COLON = re.compile(rb'"\s+:')
_CLOSES = {b"}": b"{", b"]": b"["}
_fast = msgspec.json.Decoder()
_split = msgspec.json.Decoder(list[msgspec.Raw])


class Located(NamedTuple):
    """One record: `length` bytes from byte `offset`. `fault` says why `value` could not be parsed."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    offset: int
    length: int
    value: Any
    fault: str | None = None


class Piece(NamedTuple):
    """The bytes of one record; `fault` if they are known to be no JSON value."""

    offset: int
    raw: bytes
    fault: str | None = None


@dataclass(frozen=True)
class Layout:
    """How a file holds its records. `start`: offset of the first one, in a list of what follows the bracket.

    `boundary`: finds, in a list, where a record starts after another; None if its records are no objects.
    """

    path: Path
    lines: bool
    start: int
    boundary: re.Pattern[bytes] | None


def read_records(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Located]:
    """Records of `path` in file order.

    Raises BrokenJson, with the byte offset, if a list is cut off or malformed between its records, if the
    last line of a JSON Lines file is cut off, or if the file has neither layout. A broken record before the
    end is yielded with its `fault`.
    """
    reader = RangeReader(layout_of(path), chunk_bytes=chunk_bytes)
    try:
        for index, piece in enumerate(reader):
            value, fault = (None, piece.fault) if piece.fault else decode(piece.raw, piece.offset)
            yield Located(index, piece.offset, len(piece.raw), value, fault)
    except Damage as damage:
        raise damage.error(path) from None


def layout_of(path: Path) -> Layout:
    """The layout of the file, by its first bytes. Raises BrokenJson for one with neither layout."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    begin = _skip_space(head, start)
    first = head[begin : begin + 1]
    if first == b"{":
        return Layout(path, True, start, None)
    if first == b"[":
        record = _skip_space(head, begin + 1)
        key = _FIRST_KEY.match(head, record)
        return Layout(path, False, begin + 1, _boundary(key[1]) if key else None)
    what = "is empty" if not head else "starts with neither '[' (a JSON list) nor '{' (JSON Lines)"
    raise BrokenJson(f"{path} {what}; a pool is built from LLaVA records", start)


def decode(raw: bytes, offset: int = 0) -> tuple[Any, str | None]:
    """(value, None), or (None, why it cannot be parsed) of a record that starts at byte `offset`."""
    try:
        return _fast.decode(raw), None
    except (ValueError, RecursionError):
        pass
    # What the fast parser refuses is read by the standard library's rules (NaN, lone surrogates), or its
    # error is the message.
    try:
        return json.loads(raw.decode()), None
    except UnicodeDecodeError as error:
        return None, f"byte {offset + error.start:,} is not UTF-8 ({error.reason})"
    except json.JSONDecodeError as error:
        before, after = error.doc[: error.pos], error.doc[error.pos :]
        at = offset + len(before.encode("utf-8", "surrogatepass"))
        if before.rstrip().endswith(",") and after.lstrip()[:1] in ("]", "}"):
            return None, f"a trailing comma before {after.lstrip()[:1]} at byte {at:,}"
        return None, f"{error.msg.removesuffix(' at')} at byte {at:,}"
    except ValueError as error:
        return None, str(error)
    except RecursionError:
        return None, "nested too deeply"


def repeated_key(raw: bytes, value: Any) -> str | None:
    """A key that an object of the record has twice, so that it says two things; None without one.

    `value`: the parsed record, whose number of keys tells in nearly all cases that none is repeated.
    """
    if raw.count(b'":') == _keys(value) and not _SPACED_COLON.search(raw):
        return None
    repeated: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.append(next(name for name in names if names.count(name) > 1))
        return made

    json.loads(raw.decode(), object_pairs_hook=check)
    return repeated[0] if repeated else None


def _keys(value: Any) -> int:
    """The keys of a record and of its turns; any other number for other records."""
    try:
        return len(value) + sum(map(len, value["conversations"]))
    except (TypeError, KeyError):
        return -1


record_hash = xxhash.xxh3_64_intdigest
"""The hash by which a record's bytes are known again, a number of 64 bits."""


class Damage(Exception):
    """The file cannot be read on at byte `offset`, after `count` records of the range.

    `what` says what is wrong there; None: the file is cut off.
    """

    def __init__(self, offset: int, count: int, what: str | None = None) -> None:
        super().__init__(offset, count, what)
        self.offset, self.count, self.what = offset, count, what

    def error(self, path: Path, before: int = 0) -> BrokenJson:
        """The error for the user; `before`: the records before the range."""
        index = before + self.count
        if self.what is not None:
            return BrokenJson(
                f"{path}: not valid JSON at byte {self.offset:,}, in or after record {index} (counted from "
                f"0): {self.what}; repair the file or download it again",
                self.offset,
            )
        partial = f", or build a pool of the complete records with --limit {index}" if index else ""
        return BrokenJson(
            f"{path} is truncated: it ends inside or right after record {index} (counted from 0), which "
            f"starts at byte {self.offset:,}; {index:,} complete records precede it. Fetch the file again "
            f"(compare its size with the publisher's){partial}",
            self.offset,
        )


class RangeReader:
    """The pieces of the records that start in a range of bytes.

    `start`: offset of a record's first byte (of a line's in JSON Lines); None: of the file's first record.
    `stop`: records that start there or later are left out; None: none. After the last piece, `next` is where
    the first record after the range starts, None if there is none. Raises Damage.
    """

    def __init__(
        self,
        layout: Layout,
        start: int | None = None,
        stop: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.layout, self.stop, self.chunk = layout, stop, chunk_bytes
        self.first = start is None
        self.start = layout.start if start is None else start
        self.next: int | None = None
        self.count = 0

    def __iter__(self) -> Iterator[Piece]:
        with self.layout.path.open("rb") as file:
            file.seek(self.start)
            for piece in self._lines(file) if self.layout.lines else self._list(file):
                self.count += 1
                yield piece

    def _beyond(self, offset: int) -> bool:
        if self.stop is None or offset < self.stop:
            return False
        self.next = offset
        return True

    def _lines(self, file: BinaryIO) -> Iterator[Piece]:
        offset = self.start
        for line in file:
            if self._beyond(offset):
                return
            text = line.strip()
            if text:
                begin = offset + line.index(text)
                self._check_line(text, begin, whole=line.endswith(b"\n"))
                yield Piece(begin, text)
            offset += len(line)

    def _check_line(self, text: bytes, begin: int, whole: bool) -> None:
        first = self.first and self.count == 0
        fault = decode(text, begin)[1] if first or not whole else None
        if fault and first:
            raise BrokenJson(
                f"{self.layout.path}: the first line is not a complete JSON record ({fault}); expected a "
                "JSON list or one record per line",
                begin,
            )
        if fault:
            raise Damage(begin, self.count)

    def _list(self, file: BinaryIO) -> Iterator[Piece]:
        window = _Window(file, self.start, self.chunk)
        if self.first and window.peek() == b"]":
            return self._check_end(window)
        ahead = _HEAD_BYTES
        while not self._beyond(window.offset):
            pieces = self._several(window, ahead)
            # A record that is not well-formed is found by looking at fewer of them.
            ahead = min(ahead * 2, self.chunk) if pieces else max(ahead // 4, 1 << 10)
            for piece in pieces or [self._one(window)]:
                if self._beyond(piece.offset):
                    return
                yield piece
            if not self._step(window):
                return

    def _several(self, window: "_Window", ahead: int) -> list[Piece]:
        """The records that end in the next `ahead` bytes, if all are well-formed; moves behind them."""
        if self.layout.boundary is None:
            return []
        if window.left() < ahead:
            window.fill()
        end = window.last(self.layout.boundary, ahead)
        if end is None:
            return []
        try:
            records = _split.decode(b"[" + window.data[window.at : end] + b"]")
        except (ValueError, RecursionError):
            return []
        return window.take(records)

    def _one(self, window: "_Window") -> Piece:
        """The next record, by its brackets; moves behind it."""
        while (end := _value_end(window.data, window.at, window.ended)) is None:
            if window.ended or window.left() > MAX_RECORD_BYTES:
                return self._broken(window)
            window.fill()
        if end < 0:
            return self._broken(window)
        piece = Piece(window.offset, window.data[window.at : end])
        if piece.raw[:1] not in (b"[", b"{", b'"'):
            self._check_scalar(piece, window.ended and end == len(window.data))
        window.at = end
        return piece

    def _check_scalar(self, piece: Piece, at_end: bool) -> None:
        fault = decode(piece.raw, piece.offset)[1]
        if fault and not piece.raw.lstrip(b"-").isdigit():  # a whole number may have too many digits
            raise Damage(piece.offset, self.count, None if at_end else fault)

    def _broken(self, window: "_Window") -> Piece:
        """A record whose brackets or strings do not end: up to where the next one seems to start."""
        boundary = self.layout.boundary
        while (found := boundary and boundary.search(window.data, window.at)) is None:
            if window.ended:
                raise Damage(window.offset, self.count)
            if window.left() > MAX_RECORD_BYTES:
                what = f"the record does not end within {MAX_RECORD_BYTES:,} bytes"
                raise Damage(window.offset, self.count, what)
            window.fill()
        offset, raw = window.offset, window.data[window.at : found.start() + 1]
        window.at += len(raw)
        return Piece(offset, raw, decode(raw, offset)[1] or "its brackets do not match")

    def _step(self, window: "_Window") -> bool:
        """Move over the comma to the next record; False at the end of the list."""
        char = window.peek()
        if char == b",":
            window.at += 1
            char = window.peek()
            if char not in (b"", b"]"):  # a comma before the bracket, which JSON forbids, loses nothing
                return True
        if char == b"":
            raise Damage(window.offset, self.count)
        if char != b"]":
            shown = char.decode("ascii", "backslashreplace")
            raise Damage(window.offset, self.count, f"expected ',' or ']' after a record, found {shown!r}")
        self._check_end(window)
        return False

    def _check_end(self, window: "_Window") -> None:
        window.at += 1
        if window.peek():
            raise Damage(window.offset, self.count, "text follows the end of the list")


class _Window:
    """A part of the file: `data[at]` is the next byte, `ended` whether nothing follows `data`."""

    def __init__(self, file: BinaryIO, offset: int, chunk_bytes: int) -> None:
        self._file, self._base, self._chunk, self._more = file, offset, chunk_bytes, chunk_bytes
        self.data, self.at, self.ended = b"", 0, False

    @property
    def offset(self) -> int:
        """The place of the next byte in the file."""
        return self._base + self.at

    def left(self) -> int:
        """Bytes that are in memory."""
        return len(self.data) - self.at

    def fill(self) -> None:
        """Read on; twice as much as the last time if nothing was taken since."""
        self._more = self._chunk if self.at else min(self._more * 2, MAX_RECORD_BYTES)
        read = self._file.read(self._more)
        self.ended = len(read) < self._more
        self._base += self.at
        self.data, self.at = self.data[self.at :] + read, 0

    def peek(self) -> bytes:
        """The next byte that is not white space; b"" at the end of the file."""
        while True:
            self.at = _skip_space(self.data, self.at)
            if self.at < len(self.data) or self.ended:
                return self.data[self.at : self.at + 1]
            self.fill()

    def last(self, boundary: re.Pattern[bytes], ahead: int) -> int | None:
        """Where the last record ends that another one follows, in the next `ahead` bytes; None: nowhere."""
        stop = min(self.at + ahead, len(self.data))
        for back in (1 << 13, 1 << 16, ahead):
            ends = [found.start() for found in boundary.finditer(self.data, max(self.at, stop - back), stop)]
            if ends:
                return ends[-1] + 1
        return None

    def take(self, records: list[msgspec.Raw]) -> list[Piece]:
        """The pieces of records that follow each other; moves behind the last."""
        raws = list(map(bytes, records))
        offsets = self._offsets(raws)
        self.at = offsets[-1] - self._base + len(raws[-1])
        return list(map(Piece, offsets, raws))

    def _offsets(self, raws: list[bytes]) -> list[int]:
        found = _GAP.match(self.data, self.at + len(raws[0]))
        gap = found[0] if found else b""
        if self.data.startswith(gap.join(raws), self.at):  # one writer leaves the same gap everywhere
            return list(accumulate((len(raw) + len(gap) for raw in raws[:-1]), initial=self.offset))
        offsets, at = [], self.at
        for raw in raws:
            offsets.append(self._base + at)
            at += len(raw)
            if found := _GAP.match(self.data, at):
                at = found.end()
        return offsets


def guess_start(layout: Layout, at: int) -> int | None:
    """Where the first record that starts at byte `at` or later seems to start; None: none does.

    Right for JSON Lines. In a list, an object inside a record may look like a record.
    """
    with layout.path.open("rb") as file:
        if layout.lines:
            file.seek(max(at - 1, 0))
            file.readline()
            return file.tell() if file.peek(1) else None
        if layout.boundary is None:
            return None
        back = max(at - _LOOK_BACK, layout.start)
        file.seek(back)
        window = _Window(file, back, _GUESS_BYTES)
        while not window.ended and window.left() < MAX_RECORD_BYTES:
            window.fill()
            for found in layout.boundary.finditer(window.data):
                if window.offset + found.end() >= at:
                    return window.offset + found.end()
    return None


def _boundary(key: bytes) -> re.Pattern[bytes]:
    """Finds the end of a record, the comma after it and the start of one whose first key is `key`."""
    return re.compile(rb"\}\s*,\s*(?=\{\s*" + re.escape(key) + rb"\s*:)")


def _skip_space(data: bytes, at: int) -> int:
    found = _SPACE.match(data, at)
    return found.end() if found else at


def _value_end(data: bytes, at: int, ended: bool) -> int | None:
    """Behind the value that starts at `at`; None if `data` ends before, -1 if its brackets do not match."""
    first = data[at : at + 1]
    if first == b'"':
        text = _STRING.match(data, at)
        return text.end() if text else None
    if first not in (b"{", b"["):
        found = _AFTER_SCALAR.search(data, at)
        return found.start() if found else len(data) if ended else None
    open_: list[bytes] = []
    for found in _STRUCTURE.finditer(data, at):
        token = found[0]
        if token == b'"':
            return None
        if token in (b"{", b"["):
            open_.append(token)
        elif token in _CLOSES and open_.pop() != _CLOSES[token]:
            return -1
        if not open_:
            return found.end()
    return None
