"""From what a user gives to files of JSON records: plain JSON as it lies, all else unpacked in shards.

Shards are written by worker processes under `OUT/unpacked`, each whole or not at all, so that an interrupted
unpacking goes on where it was. Then each image gets its name (`pictures`), and the shards their final lines.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import curation.pool.inputs.tables as tables
import curation.pool.inputs.tars as tars
import curation.pool.inputs.text as text
from curation.atomic import remove_leftovers, replacing, write_json
from curation.pool.errors import PoolError
from curation.pool.inputs.drafts import Drafts, encoded, named_lines, pictures_path, write_draft
from curation.pool.inputs.find import Found, find, format_of
from curation.pool.inputs.given import DEFAULT, InputFile, InputOptions, Prepared, check_options
from curation.pool.inputs.pictures import Store, decide, paths_of, place

Progress = Callable[[int, int], None]

_ROW_BYTES = 1 << 16
"""A guess at a row of a dataset whose bytes are not known, for the progress alone."""
_VERSION = 1
"""Raised whenever the unpacked lines of one input change, so that older ones are not taken for them."""


@dataclass(frozen=True)
class _Shard:
    """A piece of an input, a `share` of its bytes.

    `rows`: (first row, rows, first row group, row groups) of a table; None: all.

    `keep`: the numbers of the rows to take, of a table; of a text or tar, the build takes `found.take`.
    """

    found: Found
    rows: tuple[int, ...] | None = None
    keep: np.ndarray | None = None
    share: float = 1.0

    @property
    def size(self) -> int:
        """Its work, in bytes or thereabouts, for the progress."""
        if self.found.dataset is not None and self.rows:
            return self.rows[1] * _ROW_BYTES
        return int(self.found.bytes * self.share)

    def key(self) -> list[Any]:
        """What its unpacked lines depend on."""
        kept = None if self.keep is None else hashlib.sha256(self.keep.tobytes()).hexdigest()
        return [*self.found.key(), self.rows, kept]


def prepare(
    given: Sequence[Path | str],
    out: Path,
    *,
    format: str | None = None,
    options: InputOptions = DEFAULT,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> Prepared:
    """The files of JSON records that `given` amounts to, in order.

    given: files, folders or hub ids. `format`: one of `FORMATS`; None: the content tells. Everything but
    UTF-8 JSON is written below `out / "unpacked"`, in `workers` processes. `on_progress` receives (bytes
    done, bytes in total) of that. Raises PoolArgumentError or PoolError, in one line, for what is not read.
    """
    check_options(format, options)
    found, notes = find(given, format, options.seed)
    shards = [shard for item in found if not item.plain for shard in _shards(item)]
    files = {} if not shards else _unpacked(shards, Path(out) / "unpacked", options, workers, on_progress)
    listed: list[InputFile] = []
    for item in found:
        listed += [_plain(item)] if item.plain else files.get(item, [])
    images = Path(out) / "unpacked" / "images"
    return Prepared(listed, images if shards and images.is_dir() else None, format_of(found, format), notes)


def _plain(item: Found) -> InputFile:
    return InputFile(item.path, _layout(item.kind), item.source, item.take)


def _layout(kind: str) -> Literal["list", "lines"]:
    return "list" if kind.startswith("list") else "lines"


def _shards(item: Found) -> list[_Shard]:
    if item.kind == "parquet":
        ranges: list[tuple[int, ...]] = list(tables.parquet_ranges(item.path))
    elif item.dataset is not None:
        count, step = len(item.dataset), tables.SHARD_ROWS
        ranges = [(at, min(step, count - at), 0, 0) for at in range(0, count, step)]
    else:
        return [_Shard(item)]
    count = sum(rows[1] for rows in ranges)
    shards = [_Shard(item, rows, share=rows[1] / count) for rows in ranges if rows[1]]
    if item.take is None:
        return shards
    kept = item.take.select(count)
    for number, shard in enumerate(shards):
        first, size = (shard.rows or (0, 0))[:2]
        inside = kept[np.searchsorted(kept, first) : np.searchsorted(kept, first + size)]
        shards[number] = replace(shard, keep=inside)
    return [shard for shard in shards if shard.keep is not None and len(shard.keep)]


def _unpacked(
    shards: list[_Shard], folder: Path, options: InputOptions, workers: int, on_progress: Progress | None
) -> dict[Found, list[InputFile]]:
    """Unpack what is not unpacked yet; the files of each input."""
    plan = {"version": _VERSION, "options": repr(options), "shards": [shard.key() for shard in shards]}
    _start(folder, plan)
    files = [
        folder / f"records-{i:05d}.{'json' if _verbatim(s) == 'list' else 'jsonl'}"
        for i, s in enumerate(shards)
    ]
    if not (folder / "done.json").is_file():
        work = [(shard, file, folder, options) for shard, file in zip(shards, files, strict=True)]
        todo = [item for item in work if not _is_done(*item[:2])]
        done, total = (
            sum(s.size for s in shards) - sum(item[0].size for item in todo),
            sum(s.size for s in shards),
        )
        for item in _run(_unpack, todo, workers):
            done += item[0].size
            if on_progress:
                on_progress(done, total)
        _name_pictures(
            [file for shard, file in zip(shards, files, strict=True) if not _verbatim(shard)], folder
        )
        write_json(folder / "done.json", {"shards": len(shards)})
    for draft in folder.glob("draft-*"):
        draft.unlink()
    shutil.rmtree(folder / "store", ignore_errors=True)
    listed: dict[Found, list[InputFile]] = {}
    for shard, file in zip(shards, files, strict=True):
        listed.setdefault(shard.found, []).append(_input_file(shard, file))
    return listed


def _start(folder: Path, plan: dict[str, Any]) -> None:
    """Go on with the same plan; with another one, from the beginning."""
    path, written = folder / "plan.json", json.loads(encoded(plan))
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == written:
        remove_leftovers(folder)
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_json(path, written)


def _verbatim(shard: _Shard) -> str | None:
    """The layout of a shard that is plain JSON once it is decompressed; None for the others."""
    kind = shard.found.kind.split(":")[0]
    return kind if kind in ("list", "lines") else None


def _draft(file: Path) -> Path:
    return file.with_name(f"draft-{file.name}")


def _is_done(shard: _Shard, file: Path) -> bool:
    return (file if _verbatim(shard) else _draft(file)).is_file()


def _input_file(shard: _Shard, file: Path) -> InputFile:
    layout, take = _verbatim(shard), None if shard.rows else shard.found.take
    if layout:
        return InputFile(file, _layout(layout), shard.found.source, take)
    return InputFile(file, "lines", shard.found.source, take, unpacked=True)


def _run(function: Callable[[Any], None], items: list[Any], workers: int) -> Iterator[Any]:
    """Yield the items as they are done."""
    if workers < 2 or len(items) < 2:
        for item in items:
            function(item)
            yield item
        return
    from curation.pool.isolated import Lost, run

    for at, results in run(function, items, workers, chunk=1, seconds=float("inf")):
        for item, result in zip(items[at:], results, strict=False):
            if isinstance(result, Lost):
                raise PoolError(f"unpacking {item[0].found.path}: the worker process {result.why}")
            yield item


def _unpack(work: tuple[_Shard, Path, Path, InputOptions]) -> None:
    shard, file, folder, options = work
    found = shard.found
    kind, _, encoding = found.kind.partition(":")
    if _verbatim(shard):
        text.write_plain(found.path, found.codec, encoding or None, file)
        return
    drafts = Drafts(Store(folder / "store"), options, found.source)
    if kind == "dict":
        steps = text.add_records(found.path, found.codec, encoding or None, drafts)
    elif kind == "tar":
        steps = tars.add_records(found.path, found.codec, drafts)
    else:
        steps = tables.add_rows(_batches(shard), shard.rows[0] if shard.rows else 0, shard.keep, drafts)
    write_draft(_draft(file), drafts, steps)


def _batches(shard: _Shard) -> Iterator[pa.RecordBatch]:
    found, rows = shard.found, shard.rows or ()
    if found.dataset is not None:
        return tables.dataset_batches(found.dataset, rows[0], rows[0] + rows[1])
    if found.kind == "arrow":
        return tables.arrow_batches(found.path)
    return tables.parquet_batches(found.path, rows[2], rows[3])


def _name_pictures(files: list[Path], folder: Path) -> None:
    """Give every picture its name, then every draft its final lines."""
    drafts = [_draft(file) for file in files]
    if not drafts:
        return
    own, made = decide(pq.read_table(pictures_path(draft)) for draft in drafts)
    store, start = Store(folder / "store"), 0
    for file, draft in zip(files, drafts, strict=True):
        table = pq.read_table(pictures_path(draft))
        part = slice(start, start + len(table))
        paths = paths_of(table, own[part]).to_pylist()
        stored = table["file"].to_pylist()
        place(store, folder / "images", ((stored[i], paths[i]) for i in np.flatnonzero(made[part])))
        with replacing(file) as temporary, temporary.open("wb") as target:
            target.writelines(named_lines(draft, paths))
        start = part.stop
