"""Scan files range by range, in worker processes, into part files from which a killed build goes on."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.pool.errors import PoolError
from curation.pool.inputs import Sampling
from curation.pool.isolated import Lost, WorkersFail, run
from curation.pool.record import RecordOptions
from curation.pool.scan import Notes, Range, Scanner, read_notes
from curation.pool.stream import Damage, Layout

RANGE_BYTES = 1 << 25
_SECONDS = 3600.0
"""A range takes about a second; with a slow tokenizer and other work beside it some minutes."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """A file to scan.

    `unpacked`: made from another input, whose places its records hold as `idx`. `take`: which of its records
    are taken; None: all.
    """

    layout: Layout
    options: RecordOptions
    unpacked: bool = False
    take: Sampling | None = None

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.layout.path.stat().st_size


@dataclass(frozen=True)
class Part:
    """The scanned records of a range: `rows` of them, which `before` records of the file precede."""

    path: Path
    file: int
    before: int
    rows: int
    notes: Notes
    unpacked: bool = False


def part_folder(out: Path, sources: Sequence[Source], options: dict[str, Any]) -> Path:
    """The folder of the parts of these files and options in `out`; parts of others are deleted.

    Files are told apart by size, time and inode, the code by its bytes: a part is never taken for another's.
    """
    marks = []
    for source in sources:
        status = source.layout.path.stat()
        place = str(source.layout.path.resolve())
        marks.append((place, status.st_size, status.st_mtime_ns, status.st_ino, repr(source.options)))
    code = hashlib.sha256()
    for module in sorted(Path(__file__).parent.glob("*.py")):
        code.update(module.read_bytes())
    text = json.dumps([marks, options, code.hexdigest(), RANGE_BYTES])
    folder = out / hashlib.sha256(text.encode()).hexdigest()[:16]
    for other in out.iterdir() if out.is_dir() else ():
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scan_files(
    sources: Sequence[Source],
    scanner: Scanner,
    folder: Path,
    *,
    limit: int | None = None,
    workers: int = 0,
    range_bytes: int | None = None,
    on_progress: Progress | None = None,
) -> list[Part]:
    """The parts of all files, in order; at most `limit` records of them are wanted.

    Raises BrokenJson if a file cannot be read to its end (or to the last wanted record).
    """
    parts: list[Part] = []
    bar = _Bar(sum(source.bytes for source in sources), on_progress)
    for number, source in enumerate(sources):
        left = None if limit is None else limit - int(taken(parts, sources).sum())
        if left is not None and left <= 0:
            break
        wanted = left if source.take is None else None  # how many are taken depends on how many there are
        ranges = _ranges(number, source, folder, wanted, range_bytes or RANGE_BYTES)
        # With a limit, the ranges behind it are not scanned; it is seldom larger than a few of them.
        at_once = len(ranges) if wanted is None else max(workers, 1)
        parts += _chained(source, number, ranges, scanner, workers, at_once, bar)
    return parts


def taken(parts: Sequence[Part], sources: Sequence[Source], limit: int | None = None) -> np.ndarray:
    """bool[n]: which of the records of all parts are taken by the sampling of their file and the limit."""
    masks = [np.zeros(0, bool)]
    for number, source in enumerate(sources):
        count = sum(part.rows for part in parts if part.file == number)
        mask = np.ones(count, bool)
        if source.take is not None:
            mask[:] = False
            mask[source.take.select(count)] = True
        masks.append(mask)
    mask = np.concatenate(masks)
    return mask if limit is None else mask & (np.cumsum(mask) <= limit)


class _Bar:
    def __init__(self, total: int, report: Progress | None) -> None:
        self._total, self._report, self._done = total, report, 0

    def advance(self, size: int) -> None:
        self._done += size
        if self._report:
            self._report(self._done, self._total)


def _ranges(number: int, source: Source, folder: Path, limit: int | None, size: int) -> list[Range]:
    total = source.bytes
    begins = range(0, max(total, 1), size) if source.layout.lines or source.layout.boundary else (0,)
    stops = [*begins[1:], None]
    return [
        Range(
            source.layout,
            begin,
            stop,
            folder / f"{number:03d}-{begin:015d}-{stop or total}.arrow",
            limit=limit,
            unpacked=source.unpacked,
            options=source.options,
        )
        for begin, stop in zip(begins, stops, strict=True)
    ]


def _chained(
    source: Source,
    number: int,
    ranges: list[Range],
    scanner: Scanner,
    workers: int,
    at_once: int,
    bar: _Bar,
) -> Iterator[Part]:
    """The parts in order, each beginning where the one before it ends, up to the last wanted record.

    Where a range begins was guessed. The end of the range before it is known, so a wrong guess is seen, and
    the range is scanned again from there.
    """
    before, expected = 0, None
    for at, one in enumerate(ranges):
        if at % at_once == 0:
            _scan_all(ranges[at : at + at_once], scanner, workers, bar)
        notes = read_notes(one.part)
        left = None if one.limit is None else one.limit - before
        guessed_wrong = at > 0 and notes.start != expected
        if guessed_wrong and expected is None:
            return
        if guessed_wrong or (left is not None and notes.records > left):
            scanner(replace(one, start=expected, limit=left))
            notes = read_notes(one.part)
        yield Part(one.part, number, before, notes.records, notes, source.unpacked)
        before, expected = before + notes.records, notes.next
        if one.limit is not None and before >= one.limit:
            return
        if notes.damage:
            raise Damage(*notes.damage).error(source.layout.path, before - notes.records)


def _scan_all(ranges: list[Range], scanner: Scanner, workers: int, bar: _Bar) -> None:
    todo = [one for one in ranges if not one.part.exists()]
    size = sum(one.layout.path.stat().st_size for one in ranges[:1])
    bar.advance(sum((one.stop or size) - one.begin for one in ranges if one.part.exists()))
    if workers == 0 or len(todo) < 2:
        for one in todo:
            bar.advance(scanner(one))
        return
    try:
        for start, results in run(scanner, todo, workers, chunk=1, seconds=_SECONDS):
            for result in results:
                if isinstance(result, Lost):
                    raise PoolError(
                        f"{todo[start].layout.path}: the process that read bytes {todo[start].begin:,} and "
                        f"following {result.why}; try --workers 0"
                    )
                bar.advance(result)
    except WorkersFail as error:
        raise PoolError(f"the file cannot be read in worker processes: {error}; try --workers 0") from error


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))
