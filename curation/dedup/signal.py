"""The signal `dup_group` of a pool: copies as columns that selectors and recipes read.

score_duplicates(pool, out)                                   # dup_group, dup_kind, dup_first
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from curation import atomic
from curation.dedup.clusters import Rule
from curation.dedup.find import find_duplicates
from curation.dedup.report import markdown, summary
from curation.dedup.vectors import Vectors
from curation.pool.derive import counted, derive
from curation.pool.errors import PoolArgumentError
from curation.signals.core.table import Advance, identity_hash, read_metadata, read_signal, write_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.progress import Progress

REASON = "copy"
VERSION = 1
"""Raised when the same pool and rule give other groups."""


def score_duplicates(
    pool: "Pool",
    out: Path,
    *,
    rule: Rule | None = None,
    vectors: Vectors | None = None,
    workers: int | None = None,
    steps: "Callable[[str], Progress | None] | None" = None,
    on_progress: "Progress | None" = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write the signal `out` with dup.json and dup.md beside it; returns the content of dup.json.

    rule: what makes two samples copies; or its fields as `settings`, by name. A finished signal of the same
    pool and rule is kept. workers: processes, default one for each core. steps: gives the callback of each
    step; on_progress: receives (rows written, rows).

    Raises PoolArgumentError for images without hashes and settings that do not fit, PoolError for files that
    changed.
    """
    rule = rule or _rule(settings)
    identity = _identity(pool, rule, vectors)
    if kept := _finished(out, identity):
        return kept
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    found = find_duplicates(pool, rule, vectors=vectors, workers=count, steps=steps)
    told = summary(pool, found, identity)
    out.mkdir(parents=True, exist_ok=True)
    atomic.write_json(out / "dup.json", told)
    atomic.write_text(out / "dup.md", markdown(told))
    table = found.table

    def compute(rows: range, advance: Advance) -> pa.Table:
        advance(len(rows))
        return table.slice(rows.start, len(rows))

    write_signal(out, identity, len(pool), compute, shard_rows=1 << 20, on_progress=on_progress)
    return told


def to_drop(pool: "Pool", found: pa.Table) -> pa.Table:
    """row, reason (`copy`), detail of the rows of a signal's table that are no first: for `derive`."""
    again = found.filter(pc.invert(found["dup_first"]))
    kept = pool.table["id"].take(again["dup_group"]).to_pylist()
    details = [
        f"{kind}: {name} stays" for kind, name in zip(again["dup_kind"].to_pylist(), kept, strict=True)
    ]
    reasons = pa.array([REASON] * len(again), pa.string())
    return pa.table({"row": again["row"], "reason": reasons, "detail": pa.array(details, pa.string())})


def drop_copies(pool: "Pool", signal: Path, out: Path) -> dict[str, Any]:
    """Write a pool that has one sample of each group of the signal; returns its pool.json.

    Raises SignalError for a signal of another pool, PoolArgumentError for an unsuitable `out`.
    """
    table = read_signal(signal, pool.hash)
    rule = json.loads((signal / "dup.json").read_text(encoding="utf-8"))["rule"]
    drop = to_drop(pool, table)
    return derive(pool, drop, out, note={"dedup": counted(pool, drop) | {"rule": rule}})


def _rule(settings: Mapping[str, Any]) -> Rule:
    try:
        return Rule(**settings)
    except (TypeError, ValueError) as error:
        raise PoolArgumentError(f"rule of copies: {error}") from error


def _identity(pool: "Pool", rule: Rule, vectors: Vectors | None) -> dict[str, Any]:
    identity = {"producer": "dup_group", "version": VERSION, "pool_hash": pool.hash, "rule": asdict(rule)}
    identity["images"] = _digest(pool.image_table)
    if vectors is not None:
        inputs = [read_metadata(Path(folder))["identity"] for folder in vectors.signals]
        named = {"column": vectors.column, "clusters": vectors.clusters, "cosine": vectors.cosine}
        identity["vectors_of"] = {**named, "inputs": inputs}
    return identity


def _digest(images: pa.Table) -> str:
    """Of the hashes of the images: files may change without the pool's own hash, which covers their sizes."""
    digest = hashlib.sha256()
    for name in ("bytes_hash", "phash"):
        for chunk in images[name].combine_chunks().buffers()[1:]:
            digest.update(chunk or b"")
    return digest.hexdigest()[:16]


def _finished(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """dup.json of the same search, if that was finished."""
    if not ((out / "signal.json").is_file() and (out / "dup.json").is_file()):
        return None
    if read_metadata(out)["identity"] != identity_hash(dict(identity)):
        return None
    told: dict[str, Any] = json.loads((out / "dup.json").read_text(encoding="utf-8"))
    return told
