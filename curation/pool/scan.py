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
from curation.pool import columns
from curation.pool.layout import SCAN_SCHEMA
from curation.pool.plain import Row, reader
from curation.pool.record import DEFAULT, BadRecord, Record, RecordOptions, parse_record, record_id, source_of
from curation.pool.stream import (
    Damage,
    Layout,
    Piece,
    RangeReader,
    decode,
    guess_start,
    record_hash,
    repeated_key,
)
from curation.pool.tokens import Counter as TokenCounter
from curation.pool.tokens import token_counter

_BATCH = 4096
_NOTES = b"notes"


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
        rows: list[Row] = []
        for piece in pieces:
            row = None if piece.fault else read(piece.raw)
            if row is None:
                row = _parsed(piece, part.options, notes)
            elif row.unknown:
                notes.unknown.update(row.unknown)
            rows.append(row)
        return self._columns(rows, pieces, notes.records - len(pieces), part.unpacked)

    def _columns(
        self, rows: list[Row], pieces: Sequence[Piece], before: int, unpacked: bool
    ) -> pa.RecordBatch:
        places, own, sources, folders, images, turns, content, texts, reasons, details, _, idx, own_idx = zip(
            *rows, strict=True
        )
        names = own_idx if unpacked else [b or a for a, b in zip(idx, own_idx, strict=True)]
        index = np.arange(before, before + len(rows))
        if unpacked:
            index = np.array([n if place is None else place for n, place in zip(index, places, strict=True)])
        offsets, raws, _ = zip(*pieces, strict=True)
        numbers: dict[str, np.ndarray] = {
            "index": index,
            "n_images": np.fromiter(map(len, images), np.int32, len(rows)),
            "n_turns": np.fromiter(turns, np.int32, len(rows)),
            "text_tokens": np.fromiter(self._count(texts), np.int32, len(rows)),
            "byte_offset": np.fromiter(offsets, np.int64, len(rows)),
            "byte_length": np.fromiter(map(len, raws), np.int64, len(rows)),
            "record_hash": np.fromiter(map(record_hash, raws), np.uint64, len(rows)),
        }
        made = {"id": own, "idx": names, "source": sources, "folder": folders}
        made |= {"reason": reasons, "detail": details}
        arrays = {name: columns.texts(values) for name, values in made.items()}
        arrays |= {
            name: columns.numbers(values, SCAN_SCHEMA.field(name).type) for name, values in numbers.items()
        }
        arrays["content"] = columns.binary(content, 16)
        arrays["images"] = columns.lists(images)
        return pa.record_batch([arrays[field.name] for field in SCAN_SCHEMA], schema=SCAN_SCHEMA)


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


def _numbered(pieces: Iterable[Piece], notes: Notes) -> Iterator[Piece]:
    """The pieces, counted in the notes; a damaged file ends them, with a note of it."""
    try:
        for piece in pieces:
            notes.records += 1
            yield piece
    except Damage as damage:
        notes.damage = (damage.offset, damage.count, damage.what)


def _parsed(piece: Piece, options: RecordOptions, notes: Notes) -> Row:
    """The row of any record, by the general parser."""
    value, fault = (None, piece.fault) if piece.fault else decode(piece.raw, piece.offset)
    place = value.get("idx") if isinstance(value, dict) else None
    place = place if isinstance(place, int) else None
    idx = (record_id(value, "idx"), record_id(value, "own_idx"))
    try:
        record = _sound(piece.raw, value, fault, options)
    except BadRecord as bad:
        source = source_of(value, options)
        own = record_id(value)
        return Row(place, own, source, None, (), 0, bytes(16), "", bad.reason, bad.detail, (), *idx)
    notes.add(record)
    content, turns = bytes.fromhex(record.content_hash), len(record.turns)
    row = (place, record.id, record.source, record.folder, record.images, turns, content, record.text())
    return Row(*row, None, None, (), *idx)


def _sound(raw: bytes, value: Any, fault: str | None, options: RecordOptions) -> Record:
    if fault:
        raise BadRecord("broken_json", fault)
    record = parse_record(value, options)
    if (key := repeated_key(raw, value)) is not None:
        raise BadRecord("repeated_key", f"the key {key!r} is there twice")
    return record


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
