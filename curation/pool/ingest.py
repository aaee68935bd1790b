"""Build a pool: read LLaVA records once, audit them, make ids unique, write an index of the untouched file.

python -m curation.pool build llava_v1_5_mix665k.json --images images --out pools/665k
"""

import hashlib
import importlib.metadata
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.pool.errors import PoolArgumentError, PoolError, TooManyBad
from curation.pool.ids import Ids, unique_ids
from curation.pool.images import image_bytes, path_inside
from curation.pool.record import BadRecord, Record, parse_record, record_id
from curation.pool.stream import Located, read_records
from curation.pool.tokens import Counter as TokenCounter
from curation.pool.tokens import token_counter

POOL_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("n_images", pa.int32()),
        ("n_turns", pa.int32()),
        ("text_tokens", pa.int32()),
        ("image_tokens", pa.int32()),
        ("image_bytes", pa.int64()),
        ("byte_offset", pa.int64()),
        ("byte_length", pa.int32()),
        ("content_hash", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("byte_offset", pa.int64()),
        ("byte_length", pa.int64()),
    ]
)
_SCAN_SCHEMA = pa.schema([("index", pa.int64()), *(field for field in POOL_SCHEMA if field.name != "row")])
POOL_FILES = ("pool.json", "pool.parquet", "quarantine.parquet")
_BATCH = 2048
_EARLY = 2000
"""After this many records the scan stops if most of them are bad (a wrong --images folder, for instance)."""


def build_pool(
    source: Path,
    images: Path | None,
    out: Path,
    *,
    tokenizer: str | Path | None = None,
    image_tokens: int | None = None,
    max_bad_fraction: float = 0.01,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ingest a LLaVA JSON list or JSON Lines file; returns the content of pool.json.

    `images` is the folder that image paths are relative to (default: the file's own). `tokenizer` counts text
    tokens (default: white-space words); `image_tokens` is the number of tokens an image costs (default:
    unknown, null). `limit` reads only the first records. `on_progress` receives (bytes read, bytes in total).

    Writes `quarantine.parquet`, `pool.parquet` (in input order) and, last, `pool.json`. Raises
    PoolArgumentError for an argument that no data could satisfy, BrokenJson for a truncated or malformed
    file, TooManyBad (after writing quarantine.parquet) if more than `max_bad_fraction` of the records are
    unusable, PoolError if none is usable.
    """
    source, out = Path(source), Path(out)
    root = Path(images) if images is not None else source.parent
    _check_paths(source, root, out)
    _check_numbers(image_tokens, max_bad_fraction, limit)
    count, unit = token_counter(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    (out / "pool.json").unlink(missing_ok=True)
    scan = _Scan(root, count, image_tokens, max_bad_fraction)
    scan.read(source, limit, on_progress)
    scanned = pa.Table.from_batches(scan.batches, _SCAN_SCHEMA)
    ids = unique_ids(scanned["id"].combine_chunks(), scanned["content_hash"].combine_chunks())
    quarantine = _quarantine(scan.bad, scanned, ids)
    pq.write_table(quarantine, out / "quarantine.parquet")
    _stop_if_too_bad(quarantine, scan.records, max_bad_fraction, out)
    table = _pool_table(scanned, ids)
    pq.write_table(table, out / "pool.parquet", compression="zstd")
    words = unit | {"total": pc.sum(table["text_tokens"]).as_py()}
    summary = {"hash": pool_hash(table), "n": len(table), "records": scan.records, "limit": limit}
    summary |= {"quarantined": _counts(quarantine["reason"]), "sources": _counts(table["source"])}
    summary |= {"ids": {"missing": ids.missing, "repeated": ids.repeated}, "skipped_turns": scan.skipped}
    summary |= {"text_tokens": words, "image_tokens_each": image_tokens}
    summary |= {"source": _source_entry(source, out), "images": _location(root, out)}
    summary["versions"] = {name: importlib.metadata.version(name) for name in ("numpy", "pyarrow", "pillow")}
    _write_last(out / "pool.json", summary)
    return summary


def pool_hash(table: pa.Table) -> str:
    """sha256 (hex) over id, source, content hash and image size of every row, in order.

    It covers what the samples are, not where the files lie or how tokens are counted.
    """
    digest = hashlib.sha256()
    for start in range(0, len(table), 1 << 16):
        part = table.slice(start, 1 << 16)
        for name in ("id", "source", "content_hash"):
            digest.update(json.dumps(part[name].to_pylist(), separators=(",", ":")).encode())
        digest.update(part["image_bytes"].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _check_paths(source: Path, root: Path, out: Path) -> None:
    for path, noun in ((source, "pool file"), (root, "image folder")):
        if not path.exists():
            raise PoolArgumentError(f"{noun} {path} does not exist")
    if not source.is_file():  # a pipe has no byte offsets to index by
        raise PoolArgumentError(f"pool file {source} is not a regular file; give one JSON or JSON Lines file")
    if not root.is_dir():
        raise PoolArgumentError(f"image folder {root} is not a folder")
    if out.exists() and not out.is_dir():
        raise PoolArgumentError(f"output {out} is not a folder; choose another --out")
    if source.resolve() in {(out / name).resolve() for name in (*POOL_FILES, "pool.tmp")}:
        raise PoolArgumentError(f"a pool in {out} would overwrite its source {source}; choose another --out")


def _check_numbers(image_tokens: int | None, max_bad_fraction: float, limit: int | None) -> None:
    if not 0 <= max_bad_fraction <= 1:  # NaN fails this too
        raise PoolArgumentError(f"max_bad_fraction must be a number from 0 to 1, got {max_bad_fraction}")
    if image_tokens is not None and image_tokens < 0:
        raise PoolArgumentError(f"image_tokens must be at least 0, got {image_tokens}")
    if limit is not None and limit < 1:
        raise PoolArgumentError(f"limit must be at least 1, got {limit}")


class _Scan:
    """The pass over the file: good records as Arrow batches, bad ones as rows of the quarantine table."""

    def __init__(self, root: Path, count: TokenCounter, image_tokens: int | None, max_bad: float) -> None:
        self._root, self._count, self._each, self._max_bad = str(root), count, image_tokens, max_bad
        # In real pools many records share an image (LLaVA-665K asks about one COCO image several times).
        self._image_bytes = lru_cache(maxsize=1 << 16)(image_bytes)
        self.batches: list[pa.RecordBatch] = []
        self.bad: list[tuple] = []
        self.records = 0
        self.skipped = {"answer_before_question": 0, "question_without_answer": 0}

    def read(self, source: Path, limit: int | None, on_progress: Callable[[int, int], None] | None) -> None:
        """Scan the first `limit` records; stop early if most of those read are bad."""
        total = source.stat().st_size
        for batch in _batched(islice(read_records(source), limit), _BATCH):
            self._add(batch)
            if self.records >= _EARLY and len(self.bad) > max(0.5, self._max_bad) * self.records:
                break
            if on_progress:
                on_progress(batch[-1].offset + batch[-1].length, total)

    def _add(self, batch: list[Located]) -> None:
        good: list[tuple[Located, Record, int]] = []
        for item in batch:
            try:
                good.append((item, *self._audit(item)))
            except BadRecord as bad:
                self.bad.append(
                    (item.index, record_id(item.value), bad.reason, bad.detail, item.offset, item.length)
                )
        self.records += len(batch)
        self.skipped["answer_before_question"] += sum(record.skipped_first for _, record, _ in good)
        self.skipped["question_without_answer"] += sum(record.skipped_last for _, record, _ in good)
        texts = self._count([record.text() for _, record, _ in good]) if good else []
        rows = [self._row(*entry, tokens) for entry, tokens in zip(good, texts, strict=True)]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(_SCAN_SCHEMA)
        self.batches.append(pa.record_batch(columns, schema=_SCAN_SCHEMA))

    def _audit(self, item: Located) -> tuple[Record, int]:
        if item.fault:
            raise BadRecord("broken_json", item.fault)
        record = parse_record(item.value)
        return record, sum(self._image_bytes(path_inside(self._root, name)) for name in record.images)

    def _row(self, item: Located, record: Record, size: int, tokens: int) -> tuple:
        images = len(record.images)
        cost = None if self._each is None else images * self._each
        return (
            item.index,
            record.id,
            record.source,
            images,
            len(record.turns),
            tokens,
            cost,
            size,
            item.offset,
            item.length,
            record.content_hash,
        )


def _batched(items: Iterable[Located], size: int) -> Iterator[list[Located]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _quarantine(bad: list[tuple], scanned: pa.Table, ids: Ids) -> pa.Table:
    rows = list(bad)
    for at in np.flatnonzero(~ids.kept):
        item = scanned.slice(int(at), 1).to_pylist()[0]
        detail = f"content {item['content_hash']}"
        rows.append(
            (item["index"], item["id"], ids.duplicate[at], detail, item["byte_offset"], item["byte_length"])
        )
    columns = (
        zip(*sorted(rows, key=lambda row: row[0]), strict=True) if rows else [[]] * len(QUARANTINE_SCHEMA)
    )
    return pa.table([list(column) for column in columns], schema=QUARANTINE_SCHEMA)


def _stop_if_too_bad(quarantine: pa.Table, records: int, allowed: float, out: Path) -> None:
    counts = _counts(quarantine["reason"])
    listed = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
    if records == 0:
        raise PoolError("the file holds no records")
    if len(quarantine) > allowed * records:
        first = quarantine.slice(0, 1).to_pylist()[0]
        raise TooManyBad(
            f"{len(quarantine):,} of the {records:,} records read are unusable ({listed}), more than "
            f"max_bad_fraction {allowed:g} allows. First: record {first['index']}, {first['reason']}: "
            f"{first['detail']}. See {out / 'quarantine.parquet'}; correct the data or --images, or raise "
            "max_bad_fraction",
            counts,
        )
    if len(quarantine) == records:
        raise PoolError(
            f"none of the {records:,} records is usable ({listed}); see {out / 'quarantine.parquet'}"
        )


def _pool_table(scanned: pa.Table, ids: Ids) -> pa.Table:
    table = scanned.drop_columns(["index"]).set_column(0, "id", pa.array(ids.ids, pa.string()))
    table = table.filter(pa.array(ids.kept, pa.bool_()))
    rows = pa.array(np.arange(len(table), dtype=np.int32))
    return table.add_column(0, "row", rows).select(POOL_SCHEMA.names).cast(POOL_SCHEMA).combine_chunks()


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Rows by value, most frequent first."""
    return dict(sorted(Counter(column.to_pylist()).items(), key=lambda entry: (-entry[1], entry[0])))


def _source_entry(source: Path, out: Path) -> dict[str, Any]:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _location(source, out) | {"bytes": source.stat().st_size, "sha256": digest}


def _location(path: Path, out: Path) -> dict[str, str]:
    # Both paths: the relative one survives moving the pool with its data, the absolute one moving the pool
    # alone.
    absolute = path.resolve()
    return {"path": str(absolute), "relative": os.path.relpath(absolute, out.resolve())}


def _write_last(path: Path, summary: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(temporary, path)
