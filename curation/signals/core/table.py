"""Signals on disk: `part-*.parquet`, one for each shard of contiguous rows, and `signal.json`, written last.

A shard is a pure function of its rows, written under a temporary name and renamed. Running a producer again
keeps the parts that are complete and of the same identity (pool, model, prompts, parameters) and computes the
others. Vectors are stored outside the parts, in one memory-mapped file for each column
(curation/signals/core/vector_files.py).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import curation.signals.core.vector_files as vector_files
from curation import atomic

IDENTITY_KEY = b"winnow.identity"
VECTORS_KEY = b"winnow.vectors"
OWN_KEYS = {"identity", "rows", "parts", "vectors"}
"""Keys that `write_signal` adds to signal.json itself."""
_STYLES = "styles.list.element"
"""Parquet path of the style names, read as a dictionary: nine strings instead of one for each row."""


class SignalError(ValueError):
    """A signal that cannot be used; the message names the file and what to do."""


class MissingPartError(SignalError):
    """A part file or signal.json does not exist: the producer has not finished."""


class TruncatedPartError(SignalError):
    """A part file or signal.json cannot be read, or does not hold the rows it was written with."""


class OtherPoolError(SignalError):
    """The signal was computed on another pool."""


class DuplicateRowsError(SignalError):
    """A row occurs more than once."""


class JoinError(SignalError):
    """Tables that do not cover the same rows, or that share a column name."""


Advance = Callable[[int], None]
"""Called with the number of rows completed since the last call."""
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in total), first with the rows kept from an earlier run, before any work."""


def write_signal(
    out: Path,
    identity: dict[str, Any],
    n_rows: int,
    compute: Callable[[range, Advance], pa.Table],
    *,
    shard_rows: int,
    on_progress: Progress | None = None,
) -> dict[str, int]:
    """Compute and write the missing parts, then signal.json.

    identity: everything that determines the values (producer, pool_hash, model hash, prompt hash, ...),
        serialisable as JSON; `pool_hash` is required.
    compute: (contiguous rows, advance) -> table with column `row` (exactly these rows, any order) and the
        signal's columns. A column FixedSizeList<float16 or float32>[d] is stored as float16 vectors, d the
        same in every part.

    Returns the counts parts, rows_kept (from an earlier run) and rows_computed.
    """
    if reserved := OWN_KEYS & identity.keys():
        raise ValueError(
            f"the identity must not use the keys {sorted(reserved)}, reserved for signal.json itself"
        )
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "signal.json").unlink(missing_ok=True)  # its presence means that the signal is complete
    key = identity_hash(identity)
    shards = [range(start, min(start + shard_rows, n_rows)) for start in range(0, n_rows, shard_rows)]
    kept_dims = [_finished_dims(_part(out, index), rows, key, n_rows) for index, rows in enumerate(shards)]
    dims = next((part_dims for part_dims in kept_dims if part_dims is not None), None)
    rows_kept = sum(
        len(rows) for rows, part_dims in zip(shards, kept_dims, strict=True) if part_dims is not None
    )
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress:
            on_progress(done, n_rows)

    advance(rows_kept)  # before any work, so that the reported throughput excludes kept rows
    for index, rows in enumerate(shards):
        if kept_dims[index] is None:
            dims = _write_part(_part(out, index), rows, compute(rows, advance), key, n_rows, dims)
    _drop_stale_parts(out, len(shards))
    parts = [{"file": _part(out, i).name, "rows": len(rows)} for i, rows in enumerate(shards)]
    atomic.write_json(
        out / "signal.json",
        {**identity, "identity": key, "rows": n_rows, "parts": parts, "vectors": dims or {}},
    )
    return {"parts": len(shards), "rows_kept": rows_kept, "rows_computed": n_rows - rows_kept}


def read_signal(directory: Path, pool_hash: str | None = None) -> pa.Table:
    """All parts of a finished signal as one table, sorted by `row`; vectors are views of memory-mapped files.

    `styles` is read as list<dictionary-encoded string>. Raises a SignalError subclass for an incomplete or
    damaged signal, and for one of another pool than `pool_hash` (None skips this check).
    """
    meta = read_metadata(directory)
    if pool_hash is not None and meta["pool_hash"] != pool_hash:
        raise OtherPoolError(
            f"{directory} belongs to pool {meta['pool_hash']}, not to {pool_hash}: "
            "run its producer on this pool"
        )
    table = _concat(directory, [_read_part(directory, part, meta["identity"]) for part in meta["parts"]])
    rows = table["row"].to_numpy()
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) != len(rows):
        raise DuplicateRowsError(
            f"{directory} holds row {unique[counts > 1][0]} more than once: "
            "delete it and run its producer again"
        )
    table = table if np.all(rows[:-1] < rows[1:]) else table.sort_by("row")
    for name, dims in meta.get("vectors", {}).items():
        table = _attach_vectors(directory, name, dims, table, meta["rows"])
    return table


def read_metadata(directory: Path) -> dict[str, Any]:
    """The contents of signal.json.

    Raises MissingPartError when the producer has not finished, TruncatedPartError when the file is damaged.
    """
    try:
        meta = json.loads((directory / "signal.json").read_text())
    except FileNotFoundError:
        raise MissingPartError(
            f"{directory} holds no finished signal (no signal.json): run its producer again"
        ) from None
    except ValueError as error:
        raise TruncatedPartError(
            f"{directory}/signal.json is not valid JSON ({error}): run its producer again"
        ) from error
    if not isinstance(meta, dict) or not {"pool_hash", "identity", "rows", "parts"} <= meta.keys():
        raise TruncatedPartError(
            f"{directory}/signal.json does not describe a signal: run its producer again"
        )
    return meta


def join(pool_table: pa.Table, signals: Sequence[pa.Table]) -> pa.Table:
    """The columns of the pool and of all signals, aligned by `row`, in the order of the pool table.

    Raises JoinError for a signal whose rows are not exactly those of the pool, or a column name that occurs
    twice.
    """
    rows = pool_table["row"].to_numpy()
    joined = pool_table
    for signal in signals:
        at = signal["row"].to_numpy()
        if len(at) != len(rows) or not np.array_equal(np.sort(at), np.sort(rows)):
            absent = len(np.setdiff1d(rows, at))
            raise JoinError(
                f"signal {signal.column_names[1:]} has {len(at)} rows and lacks {absent} of "
                f"the pool's {len(rows)}"
            )
        order = np.argsort(at, kind="stable")
        aligned = (
            signal
            if np.array_equal(at, rows)
            else signal.take(order[np.searchsorted(at, rows, sorter=order)])
        )
        for name in (name for name in aligned.column_names if name != "row"):
            if name in joined.column_names:
                raise JoinError(
                    f"column {name!r} comes from two tables: name one signal only, or rename the column"
                )
            joined = joined.append_column(name, aligned[name])
    return joined


def _part(out: Path, index: int) -> Path:
    return out / f"part-{index:05d}.parquet"


def identity_hash(identity: dict[str, Any]) -> str:
    """First 16 hex digits of the sha256 of the identity as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _finished_dims(path: Path, rows: range, key: str, n_rows: int) -> dict[str, int] | None:
    """Vector dimensions by column (may be empty) of a finished part; None: the part has to be computed."""
    if not path.exists():
        return None
    try:
        table = pq.read_table(path, columns=["row"])
    except (pa.ArrowInvalid, OSError):
        return None
    metadata = table.schema.metadata or {}
    if metadata.get(IDENTITY_KEY) != key.encode() or not np.array_equal(table["row"].to_numpy(), rows):
        return None
    dims = json.loads(metadata.get(VECTORS_KEY, b"{}"))
    return dims if vector_files.is_whole(path.parent, dims, n_rows) else None


def _write_part(
    path: Path, rows: range, table: pa.Table, key: str, n_rows: int, before: dict[str, int] | None
) -> dict[str, int]:
    """Write the vectors, then the part; returns the vectors' dimensions by column.

    Raises SignalError where these differ from `before`, the dimensions in earlier parts (None: this is the
    first).
    """
    table = table.sort_by("row")
    if table["row"].to_pylist() != list(rows):
        raise SignalError(f"{path.name}: the producer returned other rows than {rows.start}..{rows.stop - 1}")
    dims = vector_files.vector_columns(table)
    if before is not None and dims != before:
        raise SignalError(f"{path.name}: the producer returned vectors {dims}, other parts hold {before}")
    table, stored = vector_files.split(table)
    # A part of an earlier run attests to vectors that are overwritten next: it must go before they do.
    path.unlink(missing_ok=True)
    for name, values in stored.items():
        vector_files.store(path.parent, name, rows, values, n_rows)
    metadata = {IDENTITY_KEY: key.encode(), VECTORS_KEY: json.dumps(dims).encode()}
    with atomic.replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)
    return dims


def _attach_vectors(directory: Path, name: str, dims: int, table: pa.Table, n_rows: int) -> pa.Table:
    problem = vector_files.problem(directory, name, dims, n_rows)
    if problem == "missing":
        raise MissingPartError(f"{directory / name}.npy does not exist: run its producer again")
    if problem or not np.array_equal(table["row"].to_numpy(), np.arange(n_rows)):
        raise TruncatedPartError(
            f"{directory / name}.npy does not match the parts ({problem or 'the parts hold other rows'}): "
            "run its producer again"
        )
    return vector_files.attach(directory, name, table)


def _read_part(directory: Path, part: dict[str, Any], key: str) -> pa.Table:
    path = directory / part["file"]
    try:
        table = pq.read_table(path, read_dictionary=[_STYLES])
    except FileNotFoundError:
        raise MissingPartError(
            f"{path} does not exist: run its producer again, finished parts are kept"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise TruncatedPartError(f"{path} cannot be read ({error}): run its producer again") from error
    if len(table) != part["rows"] or (table.schema.metadata or {}).get(IDENTITY_KEY) != key.encode():
        raise TruncatedPartError(f"{path} is not the part that signal.json describes: run its producer again")
    return table.replace_schema_metadata(None)


def _concat(directory: Path, parts: list[pa.Table]) -> pa.Table:
    """One table of all parts; a column that is all null in one part takes its type from the others."""
    if differing := [part.column_names for part in parts if part.column_names != parts[0].column_names]:
        raise SignalError(
            f"{directory}: its parts have different columns, {parts[0].column_names} and {differing[0]}"
        )
    try:
        return pa.concat_tables(parts, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SignalError(
            f"{directory}: a column has one type in one part and another type in another ({error})"
        ) from error


def _drop_stale_parts(out: Path, n_parts: int) -> None:
    atomic.remove_leftovers(out)
    for path in out.glob("part-*"):
        if int(path.stem.split("-")[1]) >= n_parts:
            path.unlink()
