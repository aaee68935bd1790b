"""The check of all images of a pool: in worker processes, each file once, the results as columns."""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.pool.errors import PoolError
from curation.pool.image_check import LEVELS, MAX_PIXELS, Check, Facts
from curation.pool.isolated import Lost, WorkersFail, run
from curation.pool.reasons import BadRecord
from curation.progress import Progress

IMAGE_SCHEMA = pa.schema(
    [
        ("image", pa.int32()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("alpha", pa.bool_()),
        ("orientation", pa.int8()),
        ("frames", pa.int32()),
        ("bytes_hash", pa.binary(16)),
        ("phash", pa.uint64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("mtime_ns", pa.int64()),
    ]
)
"""Columns of images.parquet: the row's number, the path as the records name it, and `image_check.Facts`."""
_FACTS = pa.schema(list(IMAGE_SCHEMA)[2:])
_FEW = 512
_CHUNK = {"header": 256, "full": 16}
_SECONDS = 300.0


def gate(
    names: Sequence[str],
    root: Path,
    *,
    level: str,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int = 0,
    on_progress: Progress | None = None,
    known: pa.Table | None = None,
) -> pa.Table:
    """Check the images `names` of the folder `root`; returns a table of IMAGE_SCHEMA in their order.

    level: "header" or "full" (see `image_check.Check`). max_pixels: larger ones are image_too_large, and not
    decoded. workers: processes; an image that ends its process gets the reason image_crash. With 0, and for
    few headers, this process does the work, at its own risk. known: an earlier table of the same root; its
    sound rows stand for files of unchanged size and time, if they were checked at this level. on_progress
    receives (images done, images).

    Raises PoolError if worker processes cannot start, ValueError for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    check = Check(str(root), level, allow_outside, max_pixels)
    kept = _unchanged(names, check, known)
    todo = np.flatnonzero(kept < 0)
    few = len(todo) <= _FEW and level == "header"
    checked = _checked([names[int(at)] for at in todo], check, 0 if few else workers, len(kept), on_progress)
    facts = _merged(checked, todo, known, kept)
    numbered = [pa.array(np.arange(len(names), dtype=np.int32)), pa.array(names, pa.string())]
    return pa.table([*numbered, *facts.columns], schema=IMAGE_SCHEMA)


def _checked(
    names: list[str], check: Check, workers: int, total: int, on_progress: Progress | None
) -> pa.Table:
    """The facts of the images, in their order."""
    parts: dict[int, pa.RecordBatch] = {}
    done = total - len(names)
    for start, results in _results(names, check, workers):
        parts[start] = _batch(results)
        done += len(results)
        if on_progress:
            on_progress(done, total)
    return pa.Table.from_batches([parts[start] for start in sorted(parts)], _FACTS)


def _results(names: list[str], check: Check, workers: int) -> Iterator[tuple[int, list[Facts]]]:
    chunk = _CHUNK[check.level]
    if workers == 0:
        with warnings.catch_warnings(
            action="ignore"
        ):  # PIL's about odd files: they have their reason or none
            for start in range(0, len(names), chunk):
                yield start, [check(name) for name in names[start : start + chunk]]
        return
    try:
        for start, results in run(_Quiet(check), names, workers, chunk=chunk, seconds=_SECONDS):
            yield start, [_lost(r, names[start]) if isinstance(r, Lost) else r for r in results]
    except WorkersFail as error:
        raise PoolError(f"the images cannot be checked: {error}; try --workers 0") from error


class _Quiet:
    """The check in a worker, which keeps PIL's warnings to itself."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def __call__(self, name: str) -> Facts:
        warnings.simplefilter("ignore")
        return self._check(name)


def _lost(lost: Lost, name: str) -> Facts:
    bad = BadRecord("image_crash", f"the process that decoded it {lost.why}: {name}")
    return Facts(reason=bad.reason, detail=bad.detail)


def _batch(results: list[Facts]) -> pa.RecordBatch:
    columns = zip(*(facts.row() for facts in results), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _FACTS, strict=True)]
    return pa.record_batch(arrays, schema=_FACTS)


def _unchanged(names: Sequence[str], check: Check, known: pa.Table | None) -> np.ndarray:
    """For each name its row of `known` if that still stands, else -1."""
    rows = np.full(len(names), -1, np.int64)
    if known is None or not len(known):
        return rows
    sound = pc.is_null(known["reason"])
    if check.level == "full":
        sound = pc.and_(sound, pc.is_valid(known["bytes_hash"]))
    usable = sound.to_numpy(zero_copy_only=False)
    pixels = pc.multiply(known["width"].cast("int64"), known["height"]).fill_null(0).to_numpy()
    sizes, times = (known[name].fill_null(-1).to_numpy() for name in ("bytes", "mtime_ns"))
    found = pc.index_in(pa.array(names, pa.string()), known["path"].combine_chunks())
    found = found.fill_null(-1).to_numpy()
    for at in np.flatnonzero(found >= 0):
        row = found[at]
        if usable[row] and pixels[row] <= check.max_pixels:
            if _state(check, names[int(at)]) == (sizes[row], times[row]):
                rows[at] = row
    return rows


def _state(check: Check, name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(check.path(name))
    except (BadRecord, OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _merged(checked: pa.Table, todo: np.ndarray, known: pa.Table | None, kept: np.ndarray) -> pa.Table:
    """Rows of `known` and newly checked ones, in the order of the names."""
    if known is None or len(todo) == len(kept):
        return checked
    both = pa.concat_tables([known.select(_FACTS.names).cast(_FACTS), checked])
    places = kept.copy()
    places[todo] = len(known) + np.arange(len(todo))
    return both.take(pa.array(places))
