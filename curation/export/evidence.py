"""What a card reports beside the selection: signals' models, licences, duplicates, leaks; all from files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curation.export.errors import ExportError

_NOT_TOLD = {"pool_hash", "parts", "vectors", "identity", "rows", "device", "versions", "dtype"}


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
    pool_hash: str,
    rows: np.ndarray,
    *,
    signals: Sequence[Path] = (),
    licences: Path | None = None,
    dups: Path | None = None,
    leaks: Path | None = None,
) -> Evidence:
    """Read the files. Raises ExportError for one that is not what it should be, or is of another pool."""
    return Evidence(
        _signals(signals),
        None if licences is None else _licences(licences),
        None if dups is None else _summary(dups, "dup.json", pool_hash),
        None if leaks is None else _summary(leaks, "leaks.json", pool_hash),
        None if leaks is None else _leaked(leaks / "leaks.parquet", rows),
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


def _summary(folder: Path, name: str, pool_hash: str) -> dict[str, Any]:
    info = _json(folder / name)
    of = info.get("pool_hash", pool_hash)
    if of != pool_hash:
        raise ExportError(
            f"{folder / name} is of pool {of}, but the subset of {pool_hash}; run it on that pool"
        )
    return info


def _leaked(path: Path, rows: np.ndarray) -> int:
    try:
        leaks = pq.read_table(path, columns=["row"])["row"].to_numpy()
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are ValueErrors
        raise ExportError(f"{path} cannot be read ({error}); run decontaminate again") from error
    return int(np.isin(rows, leaks).sum())


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
