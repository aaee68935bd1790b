"""Signals on disk: `part-*.parquet`, one for each shard of contiguous rows, and `signal.json`, written last.

A shard is a pure function of its rows, written under a temporary name and renamed. Running a producer again keeps the
parts that are complete and of the same identity (pool, model, prompts, parameters) and computes the others.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IDENTITY_KEY = b"winnow.identity"


class SignalError(ValueError):
    """A signal that cannot be used; the message says which file and what to do."""


class MissingPartError(SignalError):
    """A part file, or signal.json itself, is not there: the producer has not finished."""


class TruncatedPartError(SignalError):
    """A part file cannot be read, or holds other rows than it was written with."""


class OtherPoolError(SignalError):
    """The signal was computed on another pool."""


class DuplicateRowsError(SignalError):
    """A row occurs more than once."""


class JoinError(SignalError):
    """Tables that do not cover the same rows, or share a column name."""


Advance = Callable[[int], None]
"""Reports that so many more rows are done."""
Progress = Callable[[int, int], None]
"""Receives (rows done, rows in all)."""


def write_signal(
    out: Path,
    identity: dict[str, Any],
    n_rows: int,
    compute: Callable[[range, Advance], pa.Table],
    *,
    shard_rows: int,
    on_progress: Progress | None = None,
) -> dict[str, int]:
    """Compute and write the parts that are not there yet, then signal.json.

    identity: what decides the values (producer, pool_hash, model hash, prompt hash, ...), JSON-able; it must hold
    `pool_hash`.
    compute: (contiguous rows, advance) -> table with column `row` (exactly these rows, any order) and the signal's
    columns.
    Returns the counts parts, rows_kept (of an earlier run) and rows_computed.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "signal.json").unlink(missing_ok=True)
    key = _identity_hash(identity)
    shards = [range(start, min(start + shard_rows, n_rows)) for start in range(0, n_rows, shard_rows)]
    kept, done = 0, 0

    def advance(k: int) -> None:
        nonlocal done
        done += k
        if on_progress:
            on_progress(done, n_rows)

    for index, rows in enumerate(shards):
        if _is_complete(_part(out, index), rows, key):
            kept += len(rows)
            advance(len(rows))
        else:
            _write_part(_part(out, index), rows, compute(rows, advance), key)
    _drop_stale_parts(out, len(shards))
    parts = [{"file": _part(out, i).name, "rows": len(rows)} for i, rows in enumerate(shards)]
    _write_json(out / "signal.json", {**identity, "identity": key, "rows": n_rows, "parts": parts})
    return {"parts": len(shards), "rows_kept": kept, "rows_computed": n_rows - kept}


def read_signal(directory: Path, pool_hash: str | None = None) -> pa.Table:
    """All parts of a finished signal as one table, sorted by `row`.

    pool_hash: the pool that the signal must belong to (None skips this check). Raises a SignalError subclass otherwise.
    """
    meta = read_metadata(directory)
    if pool_hash is not None and meta["pool_hash"] != pool_hash:
        raise OtherPoolError(
            f"{directory} belongs to pool {meta['pool_hash']}, not to {pool_hash}: compute it on this pool"
        )
    table = pa.concat_tables([_read_part(directory, part, meta["identity"]) for part in meta["parts"]])
    rows = table["row"].to_numpy()
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) != len(rows):
        raise DuplicateRowsError(f"{directory} holds row {unique[counts > 1][0]} more than once: compute it again")
    return table if np.all(rows[:-1] < rows[1:]) else table.sort_by("row")


def read_metadata(directory: Path) -> dict[str, Any]:
    """The contents of signal.json. Raises MissingPartError when the producer has not finished."""
    try:
        return json.loads((directory / "signal.json").read_text())
    except FileNotFoundError:
        raise MissingPartError(
            f"{directory} holds no finished signal (no signal.json): run its producer again"
        ) from None


def join(pool_table: pa.Table, signals: Sequence[pa.Table]) -> pa.Table:
    """The pool's columns and every signal's, one line for each row of the pool, in the pool's order.

    Raises JoinError where a signal lacks rows of the pool, has others, or repeats a column name.
    """
    rows = pool_table["row"].to_numpy()
    joined = pool_table
    for signal in signals:
        at = signal["row"].to_numpy()
        if len(at) != len(rows) or not np.array_equal(np.sort(at), np.sort(rows)):
            absent = len(np.setdiff1d(rows, at))
            raise JoinError(
                f"signal {signal.column_names[1:]} has {len(at)} rows and lacks {absent} of the pool's {len(rows)}"
            )
        order = np.argsort(at, kind="stable")
        aligned = signal if np.array_equal(at, rows) else signal.take(order[np.searchsorted(at, rows, sorter=order)])
        for name in (name for name in aligned.column_names if name != "row"):
            if name in joined.column_names:
                raise JoinError(f"column {name!r} comes from two tables: name one signal only, or rename the column")
            joined = joined.append_column(name, aligned[name])
    return joined


def _part(out: Path, index: int) -> Path:
    return out / f"part-{index:05d}.parquet"


def _identity_hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _is_complete(path: Path, rows: range, key: str) -> bool:
    if not path.exists():
        return False
    try:
        table = pq.read_table(path, columns=["row"])
    except (pa.ArrowInvalid, OSError):
        return False
    return (table.schema.metadata or {}).get(IDENTITY_KEY) == key.encode() and table["row"].to_pylist() == list(rows)


def _write_part(path: Path, rows: range, table: pa.Table, key: str) -> None:
    table = table.sort_by("row")
    if table["row"].to_pylist() != list(rows):
        raise SignalError(f"the producer gave other rows than {rows.start}..{rows.stop - 1} for {path.name}")
    temporary = path.with_suffix(".tmp")
    pq.write_table(table.replace_schema_metadata({IDENTITY_KEY: key.encode()}), temporary)
    os.replace(temporary, path)


def _read_part(directory: Path, part: dict[str, Any], key: str) -> pa.Table:
    path = directory / part["file"]
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise MissingPartError(f"{path} is not there: run its producer again, finished parts are kept") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise TruncatedPartError(f"{path} cannot be read ({error}): run its producer again") from error
    if len(table) != part["rows"] or table.schema.metadata.get(IDENTITY_KEY) != key.encode():
        raise TruncatedPartError(f"{path} is not the part that signal.json describes: run its producer again")
    return table.replace_schema_metadata(None)


def _drop_stale_parts(out: Path, n_parts: int) -> None:
    for path in out.glob("part-*"):
        if path.suffix == ".tmp" or int(path.stem.split("-")[1]) >= n_parts:
            path.unlink()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
