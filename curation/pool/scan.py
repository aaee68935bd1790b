"""Parse the records of one byte range of a file into columns, kept as a part file."""

import gc
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation import atomic
from curation.pool.layout import SCAN_SCHEMA
from curation.pool.plain import reader
from curation.pool.record import DEFAULT, BadRecord, Record, RecordOptions, parse_record, record_id
from curation.pool.stream import (
    Damage,
    Layout,
    Piece,
    RangeReader,
    decode,
    guess_start,
    record_digest,
    repeated_key,
)
from curation.pool.tokens import Counter as TokenCounter
from curation.pool.tokens import token_counter

_BATCH = 4096
_NOTES = b"notes"
_NOTHING = (None, None, 0, 0, "0" * 32)
"""Source, folder, images, turns and content of a record that cannot be used."""


@dataclass(frozen=True)
class Range:
    """Bytes `begin` to `stop` (None: the end) of a file, whose records go to `part`.

    `start`: where the range's first record starts; None: to be guessed, or the file's first if `begin` is 0.
    `limit`: the most records that are wanted. `options`: how the file's records are read.
    """

    layout: Layout
    begin: int
    stop: int | None
    part: Path
    start: int | None = None
    limit: int | None = None
    unpacked: bool = False
    options: RecordOptions = DEFAULT


@dataclass
class Notes:
    """What a part says besides its rows.

    `start`, `next`: where its first record and the first one after it start, None if there is none. `damage`:
    why the file cannot be read on. Counts of skipped turns, of unknown keys and of control tokens.
    """

    start: int | None = None
    next: int | None = None
    records: int = 0
    damage: tuple[int, int, str | None] | None = None
    skipped_first: int = 0
    skipped_last: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    control_tokens: int = 0

    def add(self, record: Record) -> None:
        self.skipped_first += record.skipped_first
        self.skipped_last += record.skipped_last
        self.unknown.update(record.unknown)
        self.control_tokens += record.control_tokens


class Scanner:
    """Scans ranges; can be sent to another process, where it loads the tokenizer itself."""

    def __init__(self, tokenizer: str | Path | None) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _count(self) -> TokenCounter:
        return token_counter(self._tokenizer)[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"_tokenizer": self._tokenizer}

    def __call__(self, part: Range) -> int:
        """Scan a range and write its part file; returns the number of bytes in the range."""
        with _no_collection():
            batches, notes = self.scan(part)
        write_part(part.part, batches, notes)
        return (part.stop or part.layout.path.stat().st_size) - part.begin

    def scan(self, part: Range) -> tuple[list[pa.RecordBatch], Notes]:
        """The rows of a range, and its notes."""
        start = part.start
        if start is None and part.begin > 0:
            start = guess_start(part.layout, part.begin)
            if start is None:
                return [], Notes()
        reader = RangeReader(part.layout, start, part.stop)
        notes, batches = Notes(start=start), []
        pieces = _numbered(islice(reader, part.limit), notes)
        while batch := list(islice(pieces, _BATCH)):
            batches.append(self._batch(batch, notes, part))
        notes.next = reader.next
        return batches, notes

    def _batch(self, pieces: Sequence[Piece], notes: Notes, part: Range) -> pa.RecordBatch:
        read = reader(part.options)
        rows: list[tuple] = []
        texts: list[str] = []
        images: list[str] = []
        for number, piece in enumerate(pieces, notes.records - len(pieces)):
            if (plain := None if piece.fault else read(piece.raw)) is not None:
                texts.append(plain.text)
                images.extend(plain.images)
                place = plain.idx if part.unpacked and plain.idx is not None else number
                rows.append((place, *plain.row, None, None))
                continue
            value, fault = (None, piece.fault) if piece.fault else decode(piece.raw, piece.offset)
            place = _original(value, number) if part.unpacked else number
            try:
                record = _parsed(piece.raw, value, fault, part.options)
            except BadRecord as bad:
                texts.append("")
                rows.append((place, record_id(value), *_NOTHING, bad.reason, bad.detail))
                continue
            notes.add(record)
            texts.append(record.text())
            images.extend(record.images)
            rows.append((place, *_row(record), None, None))
        return _columns(rows, pieces, self._count(texts), images)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for circles of objects: records have none, and it takes a twentieth of a scan."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _row(record: Record) -> tuple:
    images, turns = len(record.images), len(record.turns)
    return record.id, record.source, record.folder, images, turns, record.content_hash


def _numbered(pieces: Iterable[Piece], notes: Notes) -> Iterator[Piece]:
    """The pieces, counted in the notes; a damaged file ends them, with a note of it."""
    try:
        for piece in pieces:
            notes.records += 1
            yield piece
    except Damage as damage:
        notes.damage = (damage.offset, damage.count, damage.what)


def _parsed(raw: bytes, value: Any, fault: str | None, options: RecordOptions) -> Record:
    if fault:
        raise BadRecord("broken_json", fault)
    record = parse_record(value, options)
    if (key := repeated_key(raw, value)) is not None:
        raise BadRecord("repeated_key", f"the key {key!r} is there twice")
    return record


def _original(value: Any, number: int) -> int:
    """The place in the input that was unpacked."""
    place = value.get("idx") if isinstance(value, dict) else None
    return place if isinstance(place, int) else number


def _columns(
    rows: list[tuple], pieces: Sequence[Piece], tokens: Sequence[int], images: list[str]
) -> pa.RecordBatch:
    index, ids, sources, folders, n_images, n_turns, content, reasons, details = zip(*rows, strict=True)
    starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(n_images, out=starts[1:])
    hashes = pa.py_buffer(bytes.fromhex("".join(content)))
    columns = {
        "index": index,
        "id": ids,
        "source": sources,
        "folder": folders,
        "n_images": n_images,
        "n_turns": n_turns,
        "text_tokens": tokens,
        "byte_offset": [piece.offset for piece in pieces],
        "byte_length": [len(piece.raw) for piece in pieces],
        "record_hash": np.frombuffer(b"".join([record_digest(piece.raw) for piece in pieces]), "<u8"),
        "content": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rows), [None, hashes]),
        "images": pa.ListArray.from_arrays(pa.array(starts), pa.array(images, pa.string())),
        "reason": reasons,
        "detail": details,
    }
    arrays = [
        columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type)
        for f in SCAN_SCHEMA
    ]
    return pa.record_batch(arrays, schema=SCAN_SCHEMA)


def write_part(path: Path, batches: list[pa.RecordBatch], notes: Notes) -> None:
    """Write a part atomically."""
    schema = SCAN_SCHEMA.with_metadata({_NOTES: json.dumps(vars(notes)).encode()})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic.replacing(path) as temporary, pa.ipc.new_file(temporary, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def read_notes(path: Path) -> Notes:
    """The notes of a part file."""
    with pa.memory_map(str(path)) as file:
        notes = json.loads(pa.ipc.open_file(file).schema.metadata[_NOTES])
    damage = notes["damage"] and tuple(notes["damage"])
    return replace(Notes(**notes), damage=damage, unknown=Counter(notes["unknown"]))


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part file, of all columns or some."""
    options = pa.ipc.IpcReadOptions(
        included_fields=[SCAN_SCHEMA.get_field_index(name) for name in columns] if columns else None
    )
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file, options=options).read_all().replace_schema_metadata(None)
