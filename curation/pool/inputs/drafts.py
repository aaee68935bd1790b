"""Records on their way out of an input: lines in which each picture is a mark until it has a name."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from curation.atomic import replacing
from curation.pool import sources
from curation.pool.dialects import IMAGE_KEYS, UNREADABLE
from curation.pool.inputs.given import InputOptions
from curation.pool.inputs.pictures import MAX_BYTES, NAMES_SCHEMA, Store, is_image, safe_name
from curation.pool.reasons import BadRecord
from curation.pool.record import SOURCE_KEYS

_TALKS = ("conversations", "messages")
_PLACE, _OWN_PLACE = "idx", "own_idx"
_MARK = re.compile(rb'"\\u0001picture (\d+)\\u0001"')


class Drafts:
    """The lines of one shard of an input, in order, and the pictures in them.

    `source`: of records that name none (None: the folder of the first picture's own path).
    """

    def __init__(self, store: Store, options: InputOptions, source: str | None) -> None:
        self._store, self._options, self._source = store, options, source
        self.image_keys = (options.image_key,) if options.image_key else IMAGE_KEYS
        self._lines: list[bytes] = []
        self._pictures: dict[str, list[Any]] = {name: [] for name in NAMES_SCHEMA.names}
        self.count = 0

    def add(self, value: dict[str, Any], place: int) -> None:
        """One record; `place` is its number in its original file. Bytes in it are put into the store."""
        known = len(self._pictures["line"])
        try:
            line = self._lifted(value)
            if _PLACE in line:  # the record may come from an unpacked input
                line.setdefault(_OWN_PLACE, line[_PLACE])
            self._write(line | {_PLACE: place})
            return
        except BadRecord as error:
            bad = error
        except RecursionError:
            bad = BadRecord("broken_json", "nested too deeply")
        for column in self._pictures.values():
            del column[known:]
        self.add_unreadable(place, value.get("id"), bad)

    def add_unreadable(self, place: int, own_id: Any, bad: BadRecord) -> None:
        """A record that cannot be read: its line says why, and the pool's quarantine repeats it."""
        own = own_id if isinstance(own_id, str | int) else None
        self._write({"id": own, _PLACE: place, UNREADABLE: [bad.reason, bad.detail]})

    def picture(self, data: bytes, path: str | None) -> str:
        """Keep a picture of the record that is being added; returns the mark that stands for it."""
        if not data:
            raise BadRecord("image_empty", f"{path}: no bytes")
        if len(data) > MAX_BYTES:
            raise BadRecord("image_too_large", f"{path}: {len(data):,} bytes, more than {MAX_BYTES:,}")
        slot = len(self._pictures["slot"])
        for name, held in zip(
            NAMES_SCHEMA.names, (self.count, slot, safe_name(path), self._store.put(data)), strict=True
        ):
            self._pictures[name].append(held)
        return f"\x01picture {slot}\x01"

    def take(self) -> bytes:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def pictures(self) -> pa.Table:
        """All pictures so far (`NAMES_SCHEMA`)."""
        return pa.table(self._pictures, schema=NAMES_SCHEMA)

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.append(encoded(line) + b"\n")
        self.count += 1

    def _lifted(self, value: dict[str, Any]) -> dict[str, Any]:
        line: dict[str, Any] = {}
        paths: list[str | None] = []
        for key, held in value.items():
            if key in self.image_keys or key in _TALKS:
                line[key] = self._lift(held, paths)
            else:
                line[key] = _without_bytes(held)
        if paths and not self._names_source(value):
            line["source"] = self._source or sources.of_path(paths[0] or "", self._options.source_depth)[0]
        return line

    def _names_source(self, value: dict[str, Any]) -> bool:
        keys = (self._options.source_key,) if self._options.source_key else SOURCE_KEYS
        return bool(self._options.source_key) or any(value.get(key) for key in keys)

    def _lift(self, held: Any, paths: list[str | None]) -> Any:
        """The value with each picture replaced by its mark; `paths` gets their own paths."""
        if isinstance(held, bytes):
            paths.append(None)
            return self.picture(held, None)
        if isinstance(held, list):
            return [self._lift(inner, paths) for inner in held]
        if not isinstance(held, dict):
            return held
        if isinstance(held.get("bytes"), bytes):
            paths.append(held.get("path"))
            return self.picture(held["bytes"], held.get("path"))
        if held.keys() == {"bytes", "path"}:
            if held["path"] is None:
                raise BadRecord("image_missing", "neither bytes nor a path")
            return held["path"]
        return {key: self._lift(inner, paths) for key, inner in held.items()}


def write_draft(path: Path, drafts: Drafts, steps: Iterable[None]) -> None:
    """Write the lines that each of `steps` adds; it is whole when it exists, and so are its pictures."""
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            for _ in steps:
                file.write(drafts.take())
            file.write(drafts.take())
        pq.write_table(drafts.pictures(), pictures_path(path))


def pictures_path(draft: Path) -> Path:
    """The table of a draft's pictures."""
    return draft.with_suffix(".pictures.parquet")


def named_lines(draft: Path, names: list[str]) -> Iterator[bytes]:
    """The draft's lines, with the mark of picture i replaced by the path `names[i]`."""
    with draft.open("rb") as file:
        for line in file:
            yield _MARK.sub(lambda mark: encoded(names[int(mark[1])]), line) if names else line


def encoded(value: Any) -> bytes:
    """A value as JSON on one line; what JSON lacks (dates, decimals, NaN) as well as it can."""
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value, default=str).encode()


def _without_bytes(held: Any) -> Any:
    """The value with bytes (of pictures that no key of the record shows) replaced by a word about them."""
    if isinstance(held, bytes):
        return f"{len(held)} bytes of an image.img.png" if is_image(held) else f"{len(held)} bytes"
    if isinstance(held, list):
        return [_without_bytes(inner) for inner in held]
    return {key: _without_bytes(inner) for key, inner in held.items()} if isinstance(held, dict) else held
