"""Everything that a page shows, read from the files of a pool, a subset and its signals."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.explore import figures, items
from curation.explore.errors import ExploreError
from curation.explore.pictures import Picture, pictures
from curation.explore.sample import draw, shares
from curation.imports.load import join_signals, load_signals
from curation.imports.pool_index import Index
from curation.imports.table import Reading
from curation.pool.errors import PoolError
from curation.pool.image_check import MAX_PIXELS, Check
from curation.pool.layout import QUARANTINE_SCHEMA
from curation.pool.parts import usable_cores
from curation.pool.read import Pool
from curation.pool.reasons import REASONS
from curation.progress import Progress
from curation.signals.core.table import read_signal
from curation.subset import read_manifest, read_subset

SAMPLES = 2000
COPIES = 5
"""Copies shown beside a sample."""
_TEXT, _TEXT_IN_ALL = 6000, 24_000_000
"""Characters of one conversation, and of all together."""
_PICTURES = 56_000_000
"""Characters of all pictures together."""
_OWN_NUMBERS = ("n_turns", "n_images", "text_tokens", "image_tokens")
_DUPLICATES = ("dup_group", "dup_kind", "dup_first")
_LEAKS = ("benchmark", "item", "kind", "detail")
_LEAKS_EACH = 5


@dataclass(frozen=True)
class Request:
    """What to show. samples: how many of the pool. workers: processes that decode images."""

    subset: Path
    pool: Path
    signals: Sequence[Path] = ()
    dups: Path | None = None
    leaks: Path | None = None
    samples: int = SAMPLES
    seed: int = 0
    workers: int = field(default_factory=usable_cores)


Steps = Callable[[str], AbstractContextManager[Progress]]


def gather(pool: Pool, request: Request, steps: Steps) -> dict[str, Any]:
    """The data of the page, as JSON can hold it. steps: shows the progress of a step of that name.

    Raises ExploreError, SubsetError, PoolError, SignalError or OSError for files that do not fit.
    """
    manifest = read_manifest(request.subset)
    if manifest["pool_hash"] != pool.hash:
        raise ExploreError(
            f"{request.subset} was not chosen from {request.pool}: the pool hashes differ; "
            "give the pool that it was chosen from"
        )
    subset = read_subset(request.subset)
    picked = np.zeros(len(pool), bool)
    picked[subset["row"].to_numpy()] = True
    with tempfile.TemporaryDirectory(prefix="winnow-") as workspace:
        columns = _columns(pool, request, Path(workspace))
        return _Page(request, pool, manifest, subset, picked, columns).data(steps)


def _columns(pool: Pool, request: Request, workspace: Path) -> pa.Table:
    """The pool's columns, those of the signals, and of the copies if no signal holds them."""
    index = Index(request.pool, pool.table, pool.hash)
    columns = join_signals(index, load_signals(request.signals, index, Reading(), workspace))
    if request.dups is not None:
        found = read_signal(request.dups, pool.hash)
        for name in _DUPLICATES:
            if name not in found.column_names:
                raise ExploreError(f"{request.dups} has no column {name}; give what curation.dedup wrote")
            if name in columns.column_names:
                columns = columns.drop_columns([name])
            columns = columns.append_column(name, found[name])
    return columns


class _Page:
    """The parts of one page, made from the same tables."""

    def __init__(
        self,
        request: Request,
        pool: Pool,
        manifest: dict[str, Any],
        subset: pa.Table,
        picked: np.ndarray,
        columns: pa.Table,
    ) -> None:
        self._request, self._pool, self._manifest, self._subset = request, pool, manifest, subset
        self._picked, self._columns = picked, columns
        coded = pool.table["source"].combine_chunks().dictionary_encode()
        self._sources: list[str] = coded.dictionary.to_pylist()
        self._codes = coded.indices.to_numpy()
        self._group = _groups(columns)
        self._leaks = None if request.leaks is None else _leaks(request.leaks, pool)
        self._quarantine = _quarantine(pool)

    def data(self, steps: Steps) -> dict[str, Any]:
        """See `gather`."""
        request = self._request
        rows = draw(self._picked, self._codes, request.samples, request.seed)
        beside, copies_in_all = self._copies_of(rows)
        records = self._of_quarantine(max(request.samples // 10, 20))
        shown = [*rows.tolist(), *beside.tolist()]
        limit = min(_TEXT, _TEXT_IN_ALL // max(len(shown) + len(records), 1))
        names = items.Names()
        with steps("samples") as progress:
            found = []
            for item in items.of_pool(self._pool, shown, names, limit):
                found.append(item)
                progress(len(found), len(shown))
            refused = items.of_quarantine(self._pool, records, names, limit)
        self._describe(found, len(rows))
        with steps("pictures") as progress:
            made = self._pictures(list(names.numbers), progress)
        return {
            "name": items.cell(request.subset.resolve().name),
            "selection": self._selection(),
            "whole": self._whole(),
            "held": {
                "samples": len(rows),
                "picked": int(np.count_nonzero(self._picked[rows])),
                "beside": len(beside),
                "copies": copies_in_all,
                "quarantined": len(refused),
                "page_full": sum(picture.get("reason") == "page_full" for picture in made),
                "seed": request.seed,
            },
            "sources": self._by_source(),
            "scores": self._scores(found),
            "capabilities": self._capabilities(),
            "reasons": {code: REASONS.get(code, "") for code in self._refused_by_reason()},
            "items": found + refused,
            "pictures": made,
        }

    def _selection(self) -> list[tuple[str, Any]]:
        told = self._manifest
        params = {str(key): items.cell(value) for key, value in told["params"].items()}
        rows = {
            "selector": items.cell(told["selector"]),
            "parameters": items.cell(json.dumps(params, ensure_ascii=False)),
            "seed": told["seed"],
            "budget": items.cell(told.get("budget_asked", told["budget"].get("samples"))),
            "text tokens": told["budget"].get("text_tokens"),
            "image tokens": told["budget"].get("image_tokens"),
            "notes": items.cell(json.dumps(told.get("notes", {}))),
            "signals": items.cell(list(told.get("signals") or {})),
            "pool hash": self._pool.hash,
            "hash of the ids": told["ids_sha256"],
        }
        return [(name, value) for name, value in rows.items() if value not in (None, "", "{}")]

    def _whole(self) -> dict[str, Any]:
        n_picked = int(np.count_nonzero(self._picked))
        told: dict[str, Any] = {
            "pool": len(self._pool),
            "picked": n_picked,
            "dropped": len(self._pool) - n_picked,
            "quarantined": len(self._quarantine),
            "by_reason": self._refused_by_reason(),
        }
        if self._group is not None:
            sizes = np.bincount(self._group, minlength=len(self._group))
            copied = sizes[self._group] > 1
            told["copied"] = self._split(copied)
        if self._leaks is not None:
            leaked = np.zeros(len(self._pool), bool)
            leaked[self._leaks["row"].to_numpy()] = True
            told["leaked"] = self._split(leaked)
        return told

    def _split(self, flags: np.ndarray) -> dict[str, int]:
        return {
            "picked": int(np.count_nonzero(flags & self._picked)),
            "dropped": int(np.count_nonzero(flags & ~self._picked)),
        }

    def _refused_by_reason(self) -> dict[str, int]:
        counted = pc.value_counts(self._quarantine["reason"]).to_pylist()
        pairs = [(str(items.cell(entry["values"])), entry["counts"]) for entry in counted]
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    def _by_source(self) -> list[dict[str, Any]]:
        counted = figures.by_source(self._codes, [items.cell(name) for name in self._sources], self._picked)
        return sorted(counted, key=lambda own: (-own["picked"] - own["dropped"], own["name"]))

    def _copies_of(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """The copies to show beside `rows`, at most half as many in all; and how many copies these have."""
        if self._group is None:
            return np.empty(0, np.int64), 0
        among = np.flatnonzero(np.isin(self._group, np.unique(self._group[rows])))
        among = among[np.argsort(self._group[among], kind="stable")]
        others = among[~np.isin(among, rows)]
        starts = np.searchsorted(self._group[others], self._group[others])
        near = others[np.arange(len(others)) - starts < COPIES]
        return near[: max(len(rows) // 2, COPIES)], len(others)

    def _of_quarantine(self, count: int) -> list[dict[str, Any]]:
        """Some records of each reason, drawn with the seed."""
        reasons = self._quarantine["reason"].combine_chunks().dictionary_encode()
        if not len(reasons):
            return []
        codes = reasons.indices.to_numpy()
        sizes = np.bincount(codes)
        rng = np.random.default_rng(self._request.seed)
        parts = [
            rng.permutation(np.flatnonzero(codes == code))[:share]
            for code, share in enumerate(shares(sizes, min(count, len(codes))))
        ]
        return self._quarantine.take(pa.array(np.sort(np.concatenate(parts)))).to_pylist()

    def _describe(self, found: list[items.Item], n_drawn: int) -> None:
        """Add to each item its state, reasons, texts of signals, styles, copies and leaks."""
        rows = pa.array([item["row"] for item in found], pa.int64())
        ranks = pc.index_in(rows, self._subset["row"].combine_chunks().cast(pa.int64())).to_pylist()
        taken = self._columns.take(rows)
        reasons = [name for name in self._subset.column_names if name not in ("row", "id", "rank")]
        texts = {name: taken[name].to_pylist() for name in self._texts()}
        styles = taken["styles"].to_pylist() if "styles" in taken.column_names else None
        why = self._subset.select(reasons)
        for at, item in enumerate(found):
            rank = ranks[at]
            item["state"] = "dropped" if rank is None else "picked"
            if at >= n_drawn:
                item["beside"] = True
            if rank is not None:
                item["rank"] = rank
                item["reason"] = {
                    str(items.cell(name)): items.cell(why[name][rank].as_py()) for name in reasons
                }
            item["texts"] = {items.cell(name): items.cell(values[at]) for name, values in texts.items()}
            if styles is not None:
                item["styles"] = [items.cell(style) for style in styles[at] or []]
        self._add_groups(found, taken)
        self._add_leaks(found)

    def _texts(self) -> list[str]:
        """Columns of signals that hold texts, but for those of copies, which are shown as such."""
        own = {*self._pool.table.column_names, *_DUPLICATES}
        return [
            field.name for field in self._columns.schema if field.name not in own and _is_text(field.type)
        ]

    def _add_groups(self, found: list[items.Item], taken: pa.Table) -> None:
        if self._group is None:
            return
        sizes = np.bincount(self._group, minlength=len(self._group))
        kinds = taken["dup_kind"].to_pylist() if "dup_kind" in taken.column_names else [None] * len(found)
        for item, kind in zip(found, kinds, strict=True):
            group = int(self._group[item["row"]])
            if sizes[group] > 1:
                item["group"], item["copies"] = group, int(sizes[group]) - 1
                item["kind"], item["first"] = items.cell(kind), group == item["row"]

    def _add_leaks(self, found: list[items.Item]) -> None:
        if self._leaks is None:
            return
        wanted = pa.array([item["row"] for item in found], pa.int64())
        by_row: dict[int, list[dict[str, Any]]] = {}
        for leak in self._leaks.filter(pc.is_in(self._leaks["row"], wanted)).to_pylist():
            own = by_row.setdefault(leak["row"], [])
            if len(own) < _LEAKS_EACH:
                own.append({name: items.cell(leak[name]) for name in _LEAKS})
        for item in found:
            if leaks := by_row.get(item["row"]):
                item["leaks"] = leaks

    def _scores(self, found: list[items.Item]) -> list[dict[str, Any]]:
        """Every column of numbers: its name and its histogram; the values go to the items."""
        own = set(self._pool.table.column_names)
        of_signals = [name for name in self._columns.column_names if name not in {*own, *_DUPLICATES}]
        rows = np.array([item["row"] for item in found], np.int64)
        for item in found:
            item["values"] = []
        told = []
        for name in [*of_signals, *_OWN_NUMBERS]:
            if not figures.is_number(self._columns[name].type):
                continue
            values = figures.numbers(self._columns[name])
            if not np.isfinite(values).any():
                continue
            told.append({"name": items.cell(name)} | figures.histogram(values, self._picked))
            for item, value in zip(found, values[rows].tolist(), strict=True):
                item["values"].append(figures.rounded(value))
        return told

    def _capabilities(self) -> list[str]:
        names = self._columns.column_names
        return [found[1] for name in names if (found := re.fullmatch(r"cap_(\w+)", name))]

    def _pictures(self, names: list[str], progress: Progress) -> list[Picture]:
        options = self._pool.info.get("options", {})
        check = Check(
            str(self._pool.images),
            "header",
            bool(options.get("allow_outside", False)),
            options.get("max_pixels") or MAX_PIXELS,
        )
        return list(
            pictures(check, names, workers=self._request.workers, limit=_PICTURES, on_progress=progress)
        )


def _groups(columns: pa.Table) -> np.ndarray | None:
    """int[n]: the group of each row, a row number. Raises ExploreError for other values."""
    if "dup_group" not in columns.column_names:
        return None
    column = columns["dup_group"]
    if pa.types.is_integer(column.type) and not column.null_count:
        groups = column.to_numpy()
        if groups.min(initial=0) >= 0 and groups.max(initial=0) < len(groups):
            return groups
    raise ExploreError("dup_group must hold a row number for each sample, as curation.dedup writes it")


def _quarantine(pool: Pool) -> pa.Table:
    path = pool.folder / "quarantine.parquet"
    try:
        return pq.read_table(path, schema=QUARANTINE_SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{path} cannot be read ({error}); build the pool again") from error


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _leaks(folder: Path, pool: Pool) -> pa.Table:
    """row of this pool, benchmark, item, kind, detail of each leak, but for samples that the pool lacks.

    Raises ExploreError for leaks of another pool than this one or its parent.
    """
    try:
        told = json.loads((folder / "leaks.json").read_text(encoding="utf-8"))
        table = pq.read_table(folder / "leaks.parquet", columns=["id", *_LEAKS])
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are ValueErrors
        raise ExploreError(f"{folder} holds no search for leaks ({error}); run it again") from error
    known = {pool.hash, (pool.info.get("parent") or {}).get("hash")}
    if not isinstance(told, dict) or told.get("pool_hash") not in known:
        raise ExploreError(f"{folder} is of another pool; run python -m curation.decontaminate on this one")
    ids = pool.table["id"].combine_chunks()
    rows = pc.index_in(table["id"].combine_chunks().cast(ids.type), ids)
    return table.append_column("row", rows.cast(pa.int64())).filter(pc.is_valid(rows))
