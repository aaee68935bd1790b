"""Build a pool: read LLaVA records once, audit them, give them unique ids, write the index beside the untouched file.

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

from curation.pool.errors import PoolError, TooManyBad
from curation.pool.ids import Ids, unique_ids
from curation.pool.images import image_bytes
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
_FOUND_SCHEMA = pa.schema([("index", pa.int64()), *(field for field in POOL_SCHEMA if field.name != "row")])
_BATCH = 2048
_EARLY = 2000
"""After this many records a file of which most are bad is given up, rather than audited to its end."""


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
    """Ingest a LLaVA JSON list or JSON Lines file; returns what pool.json holds.

    `images` is the folder that image paths are relative to (default: the file's own). `tokenizer` counts text tokens
    (default: white-space words); `image_tokens` is the number of tokens an image costs (default: unknown, null).
    `limit` reads only the first records. `on_progress(bytes done, bytes in all)`.

    Writes `quarantine.parquet`, `pool.parquet` (in input order) and, last, `pool.json`. Raises BrokenJson for a
    truncated or malformed file, TooManyBad (after writing quarantine.parquet) when more than `max_bad_fraction` of
    the records are unusable, PoolError when none is usable.
    """
    source, out = Path(source), Path(out)
    root = Path(images) if images is not None else source.parent
    for path, what in ((source, "pool file"), (root, "image folder")):
        if not path.exists():
            raise PoolError(f"{what} {path} is not there")
    out.mkdir(parents=True, exist_ok=True)
    (out / "pool.json").unlink(missing_ok=True)
    count, unit = token_counter(tokenizer)
    scan = _Scan(root, count, image_tokens, max_bad_fraction)
    total = source.stat().st_size
    for batch in _batched(islice(read_records(source), limit), _BATCH):
        scan.add(batch)
        if scan.hopeless():
            break
        if on_progress:
            on_progress(batch[-1].offset + batch[-1].length, total)
    found = pa.Table.from_batches(scan.found, _FOUND_SCHEMA)
    ids = unique_ids(found["id"].combine_chunks(), found["content_hash"].combine_chunks())
    quarantine = _quarantine(scan.bad, found, ids)
    pq.write_table(quarantine, out / "quarantine.parquet")
    _stop_if_too_bad(quarantine, scan.records, max_bad_fraction, out)
    table = _pool_table(found, ids)
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
    """sha256 (hex) over id, source, content hash and image size of every row, in order: what a sample is, and
    neither where the files lie nor how tokens are counted."""
    digest = hashlib.sha256()
    for start in range(0, len(table), 1 << 16):
        part = table.slice(start, 1 << 16)
        for name in ("id", "source", "content_hash"):
            digest.update(json.dumps(part[name].to_pylist(), separators=(",", ":")).encode())
        digest.update(part["image_bytes"].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()


class _Scan:
    """The pass over the file: batches of good records as Arrow, bad ones as rows for the quarantine."""

    def __init__(self, root: Path, count: TokenCounter, image_tokens: int | None, max_bad: float) -> None:
        self._root, self._count, self._each, self._max_bad = str(root), count, image_tokens, max_bad
        self._image_bytes = lru_cache(maxsize=1 << 16)(
            image_bytes
        )  # real pools ask about the same image many times
        self.found: list[pa.RecordBatch] = []
        self.bad: list[tuple] = []
        self.records = 0
        self.skipped = {"answer_before_question": 0, "question_without_answer": 0}

    def add(self, batch: list[Located]) -> None:
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
        self.found.append(
            pa.record_batch(
                [list(c) for c in zip(*rows, strict=True)] or [[]] * len(_FOUND_SCHEMA), schema=_FOUND_SCHEMA
            )
        )

    def _audit(self, item: Located) -> tuple[Record, int]:
        if item.fault:
            raise BadRecord("broken_json", item.fault)
        record = parse_record(item.value)
        return record, sum(self._image_bytes(os.path.join(self._root, path)) for path in record.images)

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

    def hopeless(self) -> bool:
        return self.records >= _EARLY and len(self.bad) > max(0.5, self._max_bad) * self.records


def _batched(items: Iterable[Located], size: int) -> Iterator[list[Located]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _quarantine(bad: list[tuple], found: pa.Table, ids: Ids) -> pa.Table:
    rows = list(bad)
    for at in np.flatnonzero(ids.duplicate != None):  # noqa: E711 - elementwise
        item = found.slice(int(at), 1).to_pylist()[0]
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
            f"{len(quarantine):,} of {records:,} records read are unusable ({listed}), more than max_bad_fraction "
            f"{allowed:g} allows. First: record {first['index']}, {first['reason']}: {first['detail']}. See "
            f"{out / 'quarantine.parquet'}; correct the data or --images, or raise max_bad_fraction",
            counts,
        )
    if len(quarantine) == records:
        raise PoolError(
            f"none of the {records:,} records is usable ({listed}); see {out / 'quarantine.parquet'}"
        )


def _pool_table(found: pa.Table, ids: Ids) -> pa.Table:
    table = found.drop_columns(["index"]).set_column(0, "id", pa.array(ids.ids, pa.string()))
    keep = pa.array([reason is None for reason in ids.duplicate], pa.bool_())
    table = table.filter(keep)
    rows = pa.array(np.arange(len(table), dtype=np.int32))
    return table.add_column(0, "row", rows).select(POOL_SCHEMA.names).cast(POOL_SCHEMA).combine_chunks()


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(column.to_pylist()).items(), key=lambda entry: (-entry[1], entry[0])))


def _source_entry(source: Path, out: Path) -> dict[str, Any]:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _location(source, out) | {"bytes": source.stat().st_size, "sha256": digest}


def _location(path: Path, out: Path) -> dict[str, str]:
    # Both, so that a pool still opens after it was moved together with its data, and after it was moved alone.
    absolute = path.resolve()
    return {"path": str(absolute), "relative": os.path.relpath(absolute, out.resolve())}


def _write_last(path: Path, summary: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(temporary, path)
