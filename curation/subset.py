"""A subset on disk: the chosen rows with rank and reasons, and a manifest of how they were chosen."""

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.selectors.contract import Selection

OPTIONAL = {"faiss": "faiss-cpu"}
"""Optional libraries that a parameter may name -> their distributions."""

_REQUIRED = ("ids_sha256", "pool_hash", "pool_samples", "selector", "params", "seed", "budget")
"""Keys that every manifest must have."""


class SubsetError(ValueError):
    """A subset folder is incomplete or does not match its manifest."""


def write_subset(
    out: Path,
    pool: pa.Table,
    pool_hash: str,
    selection: Selection,
    *,
    selector: str,
    params: Mapping[str, Any],
    seed: int,
    signal_hashes: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `subset.parquet` (row, id, rank, reason columns; in rank order) and, last, `manifest.json`.

    `pool` is the pool's table, in row order. The bytes of both files depend only on the arguments and the
    library versions, not on time, paths or the state of a repository. Infinite parameters are written as text
    ("inf"), because JSON has no infinity. Returns the manifest. Raises ValueError for a row that the pool
    does not have.
    """
    rows = selection.rows
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(pool):
        raise ValueError(f"the selection contains row {rows.max()} of a pool with {len(pool)} rows")
    chosen = pool.take(rows)
    table = pa.table(
        {
            "row": pa.array(rows, pa.int32()),
            "id": chosen["id"],
            "rank": pa.array(np.arange(len(rows), dtype=np.int32)),
        }
    )
    for name in selection.reason.column_names:
        if name in table.column_names:
            raise ValueError(f"a reason column must not be named {name!r}")
        table = table.append_column(name, selection.reason[name])
    manifest = {
        "ids_sha256": ids_hash(table["id"].to_pylist()),
        "pool_hash": pool_hash,
        "pool_samples": len(pool),
        "signals": dict(signal_hashes or {}),
        "selector": selector,
        "params": {name: _plain(value) for name, value in params.items()},
        "seed": seed,
        "notes": selection.notes,
        "budget": {
            "samples": len(rows),
            "text_tokens": _total(chosen, "text_tokens"),
            "image_tokens": _total(chosen, "image_tokens"),
        },
        "versions": versions(params),
    } | dict(extra or {})
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)  # written last: its presence means complete
    pq.write_table(table.combine_chunks(), out / "subset.parquet", compression="zstd")
    temporary = out / "manifest.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n")
    os.replace(temporary, out / "manifest.json")
    return manifest


def read_subset(folder: Path) -> pa.Table:
    """The table of `write_subset`, in rank order. Raises SubsetError if it is incomplete or altered."""
    manifest = read_manifest(folder)
    try:
        table = pq.read_table(Path(folder) / "subset.parquet")
    except (pa.ArrowInvalid, OSError) as error:
        raise SubsetError(f"{folder}/subset.parquet cannot be read ({error}); select again") from error
    if lacking := [name for name in ("row", "id") if name not in table.column_names]:
        raise SubsetError(f"{folder}/subset.parquet has no column {lacking[0]!r}; select again")
    if ids_hash(table["id"].to_pylist()) != manifest["ids_sha256"]:
        raise SubsetError(f"{folder}: the ids in subset.parquet are not those of manifest.json; select again")
    return table


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a subset. Raises SubsetError if it is damaged or missing (it is written last)."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise SubsetError(f"{folder} holds no finished subset (no manifest.json); select again")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise SubsetError(f"{path} is not valid JSON ({error}); select again") from error
    if not isinstance(manifest, dict):
        raise SubsetError(f"{path} is not the manifest of a subset; select again")
    if lacking := [key for key in _REQUIRED if key not in manifest]:
        raise SubsetError(f"{path} is not the manifest of a subset: {lacking[0]!r} is missing; select again")
    return manifest


def ids_hash(ids: list[str]) -> str:
    """sha256 (hex) of the sorted ids, one per line: equal for equal sets, in any order."""
    return hashlib.sha256("".join(f"{id}\n" for id in sorted(ids)).encode()).hexdigest()


def versions(params: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Versions of the libraries that a selection depends on; optional ones only if a parameter names them."""
    named = [name for name in OPTIONAL if name in (params or {}).values()]
    used = {
        name: importlib.metadata.version(OPTIONAL.get(name, name)) for name in ("numpy", "pyarrow", *named)
    }
    try:
        used["winnow"] = importlib.metadata.version("winnow")
    except importlib.metadata.PackageNotFoundError:
        used["winnow"] = "not installed"
    return used


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _total(table: pa.Table, name: str) -> int | None:
    """Sum of a count column; None if any row is unknown, because a partial sum would mislead."""
    return None if name not in table.column_names or table[name].null_count else pc.sum(table[name]).as_py()
