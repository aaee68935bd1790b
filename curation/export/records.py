"""The records of chosen rows, read in large pieces and compared with the pool's hash before they are used."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.export.errors import ExportError
from curation.pool.read import Pool
from curation.pool.sample import Sample
from curation.pool.stream import decode, record_hash

_CHUNK_BYTES = 128 << 20
"""Records held in memory at a time: 10 % of a pool of 2.6M records are two chunks, so it is read twice."""
_READ_BYTES = 8 << 20
_GAP_BYTES = 64 << 10
"""Unused bytes between two records that cost less to read than a second call (and a disk's seek)."""


@dataclass(frozen=True)
class Located:
    """`data`: the record's bytes, verified; `row` and `rank`: its places in pool and subset."""

    row: int
    rank: int
    data: bytes


def records(
    pool: Pool, rows: np.ndarray, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[Located]:
    """The records of `rows` (int64[n]), in that order.

    Within a chunk they are read in the order of the file, whatever their order in the subset. Raises
    IndexError for a row that the pool does not have, ExportError for a record that is not the one of which
    the pool was built.
    """
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(pool):
        raise IndexError(
            f"row {rows.max() if rows.min() >= 0 else rows.min()} of a pool with {len(pool)} rows"
        )
    ends = pool.table["byte_length"].to_numpy()[rows].astype(np.int64).cumsum()
    start = 0
    while start < len(rows):
        limit = (ends[start - 1] if start else 0) + _CHUNK_BYTES
        stop = max(int(np.searchsorted(ends, limit, side="right")), start + 1)
        for place, data in enumerate(_chunk(pool, rows[start:stop]), start):
            yield Located(int(rows[place]), place, data)
            if on_progress and place % 4096 == 0:
                on_progress(place, len(rows))
        start = stop
    if on_progress and len(rows):
        on_progress(len(rows), len(rows))


def sample(pool: Pool, record: Located) -> Sample:
    """The parsed record."""
    value, _ = decode(record.data)
    return pool.parsed(record.row, value)


def _chunk(pool: Pool, rows: np.ndarray) -> list[bytes]:
    """The verified records of `rows`, in that order."""
    files, offsets, lengths, hashes = (
        pool.table[name].to_numpy()[rows] for name in ("file", "byte_offset", "byte_length", "record_hash")
    )
    order = np.lexsort((offsets, files))
    found: list[bytes] = [b""] * len(rows)
    for file in np.unique(files).tolist():
        places = order[files[order] == file]
        path = pool.files[file]
        pieces = _pieces(path, offsets[places], lengths[places].astype(np.int64))
        for place, expected, data in zip(places.tolist(), hashes[places].tolist(), pieces, strict=True):
            if record_hash(data) != expected:
                raise ExportError(
                    f"{path} is not the file that the pool was built from: row {rows[place]} (byte "
                    f"{offsets[place]}) has other content; put the file back, or build the pool again"
                )
            found[place] = data
    return found


def _pieces(path: Path, offsets: np.ndarray, lengths: np.ndarray) -> Iterator[bytes]:
    """The bytes at `offsets`, which ascend; neighbours are read by one call."""
    ends = offsets + lengths
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for first, stop in _windows(offsets, ends):
            start = int(offsets[first])
            window = os.pread(descriptor, int(ends[stop - 1]) - start, start)
            bounds = (offsets[first:stop] - start).tolist(), (ends[first:stop] - start).tolist()
            for begin, end in zip(*bounds, strict=True):
                yield window[begin:end]
    finally:
        os.close(descriptor)


def _windows(offsets: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of neighbouring records: at most `_READ_BYTES` (or one record) and no gap over `_GAP_BYTES`."""
    breaks = np.flatnonzero(offsets[1:] - ends[:-1] > _GAP_BYTES) + 1
    for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
        while first < last:
            stop = int(np.searchsorted(ends[:last], offsets[first] + _READ_BYTES, side="right"))
            stop = max(stop, first + 1)
            yield first, stop
            first = stop
