"""Signals on disk: `part-*.parquet`, one for each shard of contiguous rows, and `signal.json`, written last.

A shard is a pure function of its rows, written under a temporary name and renamed. Running a producer again keeps the
parts that are complete and of the same identity (pool, model, prompts, parameters) and computes the others. Vectors do not
stand in the parts but in one memory-mapped file for each column (curation/signals/core/vector_files.py).
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

from curation.signals.core import vector_files

IDENTITY_KEY = b"winnow.identity"
VECTORS_KEY = b"winnow.vectors"
OWN_KEYS = {"identity", "rows", "parts", "vectors"}
_STYLES = "styles.list.element"  # the path of the names inside a Parquet file


class SignalError(ValueError):
    """A signal that cannot be used; the message says which file and what to do."""


class MissingPartError(SignalError):
    """A part file, or signal.json itself, is not there: the producer has not finished."""


class TruncatedPartError(SignalError):
    """A part file or signal.json cannot be read, or holds other rows than it was written with."""


class OtherPoolError(SignalError):
    """The signal was computed on another pool."""


class DuplicateRowsError(SignalError):
    """A row occurs more than once."""


class JoinError(SignalError):
    """Tables that do not cover the same rows, or share a column name."""


Advance = Callable[[int], None]
"""Reports that so many more rows are done."""
Progress = Callable[[int, int], None]
"""Receives (rows done, rows in all), the first time when work begins: what an earlier run has done."""


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
    columns. A column of FixedSizeList<float16 or float32>[d] is stored as vectors of float16, d the same in every part.
    Returns the counts parts, rows_kept (of an earlier run) and rows_computed.
    """
    if reserved := OWN_KEYS & identity.keys():
        raise ValueError(f"the identity may not use the keys {sorted(reserved)} of signal.json itself")
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "signal.json").unlink(missing_ok=True)
    key = identity_hash(identity)
    shards = [range(start, min(start + shard_rows, n_rows)) for start in range(0, n_rows, shard_rows)]
    found = [_complete_vectors(_part(out, index), rows, key, n_rows) for index, rows in enumerate(shards)]
    dims = next((kept for kept in found if kept is not None), None)
    kept = sum(len(rows) for rows, part in zip(shards, found, strict=True) if part is not None)
    done = 0

    def advance(k: int) -> None:
        nonlocal done
        done += k
        if on_progress:
            on_progress(done, n_rows)

    advance(kept)  # at once and first, so that nobody takes them for work and its speed
    for index, rows in enumerate(shards):
        if found[index] is None:
            dims = _write_part(_part(out, index), rows, compute(rows, advance), key, n_rows, dims)
    _drop_stale_parts(out, len(shards))
    parts = [{"file": _part(out, i).name, "rows": len(rows)} for i, rows in enumerate(shards)]
    write_json(
        out / "signal.json",
        {**identity, "identity": key, "rows": n_rows, "parts": parts, "vectors": dims or {}},
    )
    return {"parts": len(shards), "rows_kept": kept, "rows_computed": n_rows - kept}


def read_signal(directory: Path, pool_hash: str | None = None) -> pa.Table:
    """All parts of a finished signal as one table, sorted by `row`. Vector columns lie on their memory-mapped files.

    `styles`, few names said of many rows, is a list of dictionary-encoded text.

    pool_hash: the pool that the signal must belong to (None skips this check). Raises a SignalError subclass otherwise.
    """
    meta = read_metadata(directory)
    if pool_hash is not None and meta["pool_hash"] != pool_hash:
        raise OtherPoolError(
            f"{directory} belongs to pool {meta['pool_hash']}, not to {pool_hash}: compute it on this pool"
        )
    table = _concat(directory, [_read_part(directory, part, meta["identity"]) for part in meta["parts"]])
    rows = table["row"].to_numpy()
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) != len(rows):
        raise DuplicateRowsError(
            f"{directory} holds row {unique[counts > 1][0]} more than once: compute it again"
        )
    table = table if np.all(rows[:-1] < rows[1:]) else table.sort_by("row")
    for name, dims in meta.get("vectors", {}).items():
        table = _attach_vectors(directory, name, dims, table, meta["rows"])
    return table


def read_metadata(directory: Path) -> dict[str, Any]:
    """The contents of signal.json. Raises MissingPartError when the producer has not finished, TruncatedPartError when it is not whole."""
    try:
        meta = json.loads((directory / "signal.json").read_text())
    except FileNotFoundError:
        raise MissingPartError(
            f"{directory} holds no finished signal (no signal.json): run its producer again"
        ) from None
    except ValueError as error:
        raise TruncatedPartError(
            f"{directory}/signal.json is no JSON ({error}): run its producer again"
        ) from error
    if not isinstance(meta, dict) or not {"pool_hash", "identity", "rows", "parts"} <= meta.keys():
        raise TruncatedPartError(
            f"{directory}/signal.json does not describe a signal: run its producer again"
        )
    return meta


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
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _complete_vectors(path: Path, rows: range, key: str, n_rows: int) -> dict[str, int] | None:
    """The dimensions of a finished part's vector columns; None where the part has to be computed."""
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
    """Write vectors, then the part; returns the vectors' dimensions, which must be `before` where that is known."""
    table = table.sort_by("row")
    if table["row"].to_pylist() != list(rows):
        raise SignalError(f"the producer gave other rows than {rows.start}..{rows.stop - 1} for {path.name}")
    dims = vector_files.vector_columns(table)
    if before is not None and dims != before:
        raise SignalError(f"the producer gave the vectors {dims} for {path.name}, other parts hold {before}")
    table, stored = vector_files.split(table)
    path.unlink(missing_ok=True)  # the vectors that an old part vouches for are about to be overwritten
    for name, values in stored.items():
        vector_files.store(path.parent, name, rows, values, n_rows)
    temporary = path.with_suffix(".tmp")
    metadata = {IDENTITY_KEY: key.encode(), VECTORS_KEY: json.dumps(dims).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), temporary)
    os.replace(temporary, path)
    return dims


def _attach_vectors(directory: Path, name: str, dims: int, table: pa.Table, n_rows: int) -> pa.Table:
    trouble = vector_files.problem(directory, name, dims, n_rows)
    if trouble == "missing":
        raise MissingPartError(f"{directory / name}.npy is not there: run its producer again")
    if trouble or not np.array_equal(table["row"].to_numpy(), np.arange(n_rows)):
        raise TruncatedPartError(
            f"{directory / name}.npy does not belong to its parts: {trouble or 'other rows'}; run its producer again"
        )
    return vector_files.attach(directory, name, table)


def _read_part(directory: Path, part: dict[str, Any], key: str) -> pa.Table:
    path = directory / part["file"]
    try:
        table = pq.read_table(path, read_dictionary=[_STYLES])
    except FileNotFoundError:
        raise MissingPartError(
            f"{path} is not there: run its producer again, finished parts are kept"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise TruncatedPartError(f"{path} cannot be read ({error}): run its producer again") from error
    if len(table) != part["rows"] or (table.schema.metadata or {}).get(IDENTITY_KEY) != key.encode():
        raise TruncatedPartError(f"{path} is not the part that signal.json describes: run its producer again")
    return table.replace_schema_metadata(None)


def _concat(directory: Path, parts: list[pa.Table]) -> pa.Table:
    """One table; a column that is null throughout a part takes its type from the others."""
    if differing := [part.column_names for part in parts if part.column_names != parts[0].column_names]:
        raise SignalError(
            f"{directory}: parts hold different columns, {parts[0].column_names} and {differing[0]}"
        )
    try:
        return pa.concat_tables(parts, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SignalError(
            f"{directory}: a column has one type in one part and another in the next ({error})"
        ) from error


def _drop_stale_parts(out: Path, n_parts: int) -> None:
    for path in out.glob("part-*"):
        if path.suffix == ".tmp" or int(path.stem.split("-")[1]) >= n_parts:
            path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
