"""What a card reports beside the selection: signals' models, licences, duplicates, leaks; all from files."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.export.errors import ExportError
from curation.pool.read import Pool

_NOT_TOLD = {"pool_hash", "parts", "vectors", "identity", "rows", "device", "versions", "dtype"}

_NOT_QUOTED = {"pool_hash", "examples", "between_sources"}
"""Keys of summaries that a card does not repeat: texts of samples, and long tables."""


@dataclass(frozen=True)
class Evidence:
    """`signals`: identity -> what signal.json says. `licences`: source -> licence; None: none were given.

    dups, leaks: what dup.json and leaks.json say; None: no such folder was given. leaked: the number of
    chosen samples in leaks.parquet.
    """

    signals: dict[str, dict[str, Any]] = field(default_factory=dict)
    licences: dict[str, str] | None = None
    dups: dict[str, Any] | None = None
    leaks: dict[str, Any] | None = None
    leaked: int | None = None


def gather(
    pool: Pool,
    ids: pa.ChunkedArray,
    *,
    signals: Sequence[Path] = (),
    licences: Path | None = None,
    dups: Path | None = None,
    leaks: Path | None = None,
) -> Evidence:
    """Read the files. Raises ExportError for one that is not what it should be, or is of another pool.

    ids: of the chosen samples. A pool without some samples of another one keeps their ids, so what was found
    in its parent holds for it too.
    """
    hashes = {pool.hash, (pool.info.get("parent") or {}).get("hash")}
    return Evidence(
        _signals(signals),
        None if licences is None else _licences(licences),
        None if dups is None else _summary(dups, "dup.json", hashes),
        None if leaks is None else _summary(leaks, "leaks.json", hashes),
        None if leaks is None else _leaked(leaks / "leaks.parquet", ids),
    )


def _signals(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    found = {}
    for folder in folders:
        files = sorted([*folder.glob("signal.json"), *folder.glob("*/signal.json")])
        if not files:
            raise ExportError(f"{folder} holds no signal (no signal.json)")
        for file in files:
            info = _json(file)
            found[str(info.get("identity"))] = {k: v for k, v in info.items() if k not in _NOT_TOLD}
    return found


def _licences(path: Path) -> dict[str, str]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(value, dict) or not all(
        isinstance(text, str) for entry in value.items() for text in entry
    ):
        raise ExportError(f"{path} must be a YAML mapping of source to licence, both texts")
    return value


def _summary(folder: Path, name: str, hashes: Collection[str | None]) -> dict[str, Any]:
    info = _json(folder / name)
    if info.get("pool_hash") not in hashes:
        raise ExportError(
            f"{folder / name} is of pool {info.get('pool_hash')}, not of the one that the subset was chosen "
            "from; run it on that one"
        )
    return {key: value for key, value in info.items() if key not in _NOT_QUOTED}


def _leaked(path: Path, ids: pa.ChunkedArray) -> int:
    try:
        leaks = pq.read_table(path, columns=["id"])["id"]
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are ValueErrors
        raise ExportError(f"{path} cannot be read ({error}); run decontaminate again") from error
    return pc.sum(pc.is_in(ids, leaks.combine_chunks().cast(ids.type))).as_py() or 0


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist; give the folder that holds it") from None
    except ValueError as error:
        raise ExportError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path} is not a JSON object")
    return value
