"""From scanned parts to a pool: the images of all records, the fate of each record, and the final tables.

Rows stay in the part files. In memory are, for each record, its own id, content hash, image numbers and fate.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import atomic
from curation.pool.ids import DUPLICATE_ID, DUPLICATE_RECORD, Ids, hexadecimal, unique_ids
from curation.pool.image_audit import IMAGE_SCHEMA
from curation.pool.layout import POOL_SCHEMA, QUARANTINE_SCHEMA
from curation.pool.parts import Part
from curation.pool.reasons import REASONS
from curation.pool.scan import read_part

_CODES = {reason: code for code, reason in enumerate(REASONS, 1)}
_REASONS = np.array([None, *REASONS], dtype=object)
_HASHED_ROWS = 1 << 16
_REPETITIVE = ["source", "file", "n_images", "n_turns"]
"""Columns that a dictionary makes smaller; the others only take longer with one."""
LEFT_OUT = -1
"""Fate of a record that a sampling rule leaves out; 0: kept, above: the number of its reason."""


@dataclass
class Records:
    """What all records say that decides on their fate, in order.

    `own`: string[n]; `content`: binary(16)[n]; `fate`: int16[n]. `names`: string[m], the distinct image
    names in the order of their first use; `starts`: int64[n + 1], where the record's images lie in `images`:
    int32, numbers of names.
    """

    own: pa.Array
    content: pa.Array
    fate: np.ndarray
    names: pa.Array
    starts: np.ndarray
    images: np.ndarray


def gather(parts: Sequence[Part]) -> Records:
    """Read what is needed of all parts."""
    own, content, fates, counts, used, names = [], [], [], [], [], []
    known = 0
    for part in parts:
        table = read_part(part.path, ("id", "n_images", "content", "images", "reason")).slice(0, part.rows)
        own.append(table["id"].combine_chunks())
        content.append(table["content"].combine_chunks())
        fates.append(_coded(table["reason"]))
        counts.append(table["n_images"].to_numpy())
        distinct = table["images"].combine_chunks().flatten().dictionary_encode()
        used.append(distinct.indices.to_numpy().astype(np.int64) + known)
        names.append(distinct.dictionary)
        known += len(distinct.dictionary)
    merged = _joined(names, pa.string()).dictionary_encode()
    images = merged.indices.to_numpy().astype(np.int32)[np.concatenate([np.zeros(0, np.int64), *used])]
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
    fate = np.concatenate([np.zeros(0, np.int16), *fates])
    return Records(
        _joined(own, pa.string()), _joined(content, pa.binary(16)), fate, merged.dictionary, ends, images
    )


def _joined(arrays: list[pa.Array], kind: pa.DataType) -> pa.Array:
    joined = pa.chunked_array(arrays, kind).combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def _coded(reasons: pa.ChunkedArray) -> np.ndarray:
    codes = pc.index_in(reasons, pa.array(_REASONS[1:], pa.string()))
    return codes.fill_null(-1).to_numpy().astype(np.int16) + 1


@dataclass
class Images:
    """What decides on the records of each image: `sizes` in bytes, int64[m]; `reasons`, int16[m], 0 for none.

    `table`: the file with the rest, of `image_audit.IMAGE_SCHEMA`.
    """

    sizes: np.ndarray
    reasons: np.ndarray
    table: Path

    @classmethod
    def write(cls, path: Path, tables: Iterator[pa.Table]) -> "Images":
        """Write images.parquet from the tables of consecutive images."""
        sizes, reasons, count = [np.zeros(0, np.int64)], [np.zeros(0, np.int16)], 0
        with (
            atomic.replacing(path) as temporary,
            pq.ParquetWriter(temporary, IMAGE_SCHEMA, compression="zstd") as file,
        ):
            for table in tables:
                numbers = pa.array(np.arange(count, count := count + len(table), dtype=np.int32))
                file.write_table(table.set_column(0, IMAGE_SCHEMA.field(0), numbers))
                sizes.append(table["bytes"].fill_null(0).to_numpy())
                reasons.append(_coded(table["reason"]))
        return cls(np.concatenate(sizes), np.concatenate(reasons), path)

    def details(self, images: np.ndarray) -> pa.ChunkedArray:
        """Why each of these images (-1: none) cannot be used."""
        at = pa.array(images, mask=images < 0)
        return pq.read_table(self.table, columns=["detail"])["detail"].take(at)


@dataclass
class Judged:
    """The fate of all records, and what is in the pool of those that are kept.

    `bad_image`: int32[n], the image for which a record is not used, -1 for none. `sizes`: int64[n], bytes of
    the record's images. `ids`: of the `usable` records (bool[n]: all but for repetition).
    """

    records: Records
    bad_image: np.ndarray
    sizes: np.ndarray
    usable: np.ndarray
    ids: Ids

    @property
    def fate(self) -> np.ndarray:
        """int16[n]."""
        return self.records.fate

    def counts(self) -> dict[str, int]:
        """Quarantined records by reason, most frequent first."""
        codes, times = np.unique(self.fate[self.fate > 0], return_counts=True)
        found = {str(_REASONS[code]): int(n) for code, n in zip(codes, times, strict=True)}
        return by_frequency(found)

    def read(self) -> int:
        """Records that are kept or quarantined."""
        return int((self.fate != LEFT_OUT).sum())


def judge(records: Records, images: Images) -> Judged:
    """The fate of all records."""
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(images.sizes[records.images])])
    sizes = total[records.starts[1:]] - total[records.starts[:-1]]
    bad_image = _first_bad(records, images.reasons)
    fate = records.fate
    hit = (fate == 0) & (bad_image >= 0)
    fate[hit] = images.reasons[bad_image[hit]]
    usable = fate == 0
    mask = pa.array(usable)
    ids = unique_ids(records.own.filter(mask), records.content.filter(mask))
    codes = np.zeros(3, np.int16)
    codes[DUPLICATE_RECORD], codes[DUPLICATE_ID] = _CODES["duplicate_record"], _CODES["duplicate_id"]
    fate[usable] = codes[ids.fate]
    return Judged(records, bad_image, sizes, usable, ids)


def _first_bad(records: Records, reasons: np.ndarray) -> np.ndarray:
    """int32[n]: the first image of each record that has a reason; -1 for none."""
    found = np.full(len(records.fate), -1, np.int32)
    at = np.flatnonzero(reasons[records.images] > 0)[::-1]
    rows = np.searchsorted(records.starts, at, side="right") - 1
    found[rows] = records.images[at]  # of several the first is written last
    return found


def quarantine_table(
    parts: Sequence[Part], judged: Judged, images: Images, sources: Mapping[str, str]
) -> pa.Table:
    """The rows of quarantine.parquet, in input order. `sources`: as for `pool_tables`."""
    tables = [QUARANTINE_SCHEMA.empty_table()]
    for part, rows in _slices(parts):
        fate = judged.fate[rows]
        bad = np.flatnonzero(fate > 0)
        if not len(bad):
            continue
        table = read_part(part.path).slice(0, part.rows).take(pa.array(bad))
        detail = _details(table, judged.bad_image[rows][bad], images)
        columns = {
            "index": _index(table, part),
            "id": table["id"],
            "source": _sources(table, sources),
            "reason": pa.array(_REASONS[fate[bad]], pa.string()),
            "detail": detail,
            "byte_offset": table["byte_offset"],
            "byte_length": table["byte_length"],
            "file": pa.array(np.full(len(bad), part.file, np.int32)),
        }
        tables.append(pa.table(columns, schema=QUARANTINE_SCHEMA))
    return pa.concat_tables(tables).combine_chunks()


def _details(table: pa.Table, bad_image: np.ndarray, images: Images) -> pa.ChunkedArray:
    """Why each record is not used: its own fault, else its image's, else the content that it repeats."""
    content = pc.binary_join_element_wise("content", hexadecimal(table["content"].combine_chunks()), " ")
    return pc.coalesce(table["detail"], images.details(bad_image), content)


def _slices(parts: Sequence[Part]) -> Iterator[tuple[Part, slice]]:
    """Each part with the place of its records among all."""
    start = 0
    for part in parts:
        yield part, slice(start, start + part.rows)
        start += part.rows


def _index(table: pa.Table, part: Part) -> pa.Array:
    return table["index"] if part.unpacked else pc.add(table["index"], part.before)


@dataclass
class Written:
    """What pool.json says of the rows of pool.parquet. `sources`: rows by source, most frequent first."""

    hash: str
    rows: int
    sources: dict[str, int]
    text_tokens: int


def write_rows(path: Path, tables: Iterator[pa.Table]) -> Written:
    """Write pool.parquet from tables of POOL_SCHEMA, one after the other."""
    digest, rows, text_tokens = hashlib.sha256(), 0, 0
    sources: Counter[str] = Counter()
    with (
        atomic.replacing(path) as temporary,
        pq.ParquetWriter(temporary, POOL_SCHEMA, compression="zstd", use_dictionary=_REPETITIVE) as file,
    ):
        for table in _even(tables, _HASHED_ROWS):
            update_hash(digest, table)
            rows += len(table)
            text_tokens += pc.sum(table["text_tokens"]).as_py() or 0
            for entry in pc.value_counts(table["source"]).to_pylist():
                sources[entry["values"]] += entry["counts"]
            file.write_table(table)
    return Written(digest.hexdigest(), rows, by_frequency(sources), text_tokens)


def by_frequency(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, highest first."""
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def repetitions(values: pa.Array | pa.ChunkedArray) -> int:
    """How many values repeat an earlier one."""
    return len(values) - pc.count_distinct(values).as_py()


def pool_hash(table: pa.Table) -> str:
    """sha256 (hex) over id, source, content hash and image size of every row, in order.

    It covers what the samples are, not where the files lie or how tokens are counted.
    """
    digest = hashlib.sha256()
    for start in range(0, len(table), _HASHED_ROWS):
        update_hash(digest, table.slice(start, _HASHED_ROWS))
    return digest.hexdigest()


def update_hash(digest: Any, part: pa.Table) -> None:
    """Add the next `_HASHED_ROWS` rows (the last ones may be fewer) to a pool hash."""
    for name in ("id", "source", "content_hash"):
        digest.update(escaped_json(part[name].to_pylist()))
    digest.update(part["image_bytes"].to_numpy().astype("<i8").tobytes())


def escaped_json(texts: list[str]) -> bytes:
    """`json.dumps` of a list of texts without spaces, all but printed ASCII escaped."""
    fast = msgspec.json.encode(texts)
    if fast.isascii() and b"\x7f" not in fast:
        return fast
    return json.dumps(texts, separators=(",", ":")).encode()


def _even(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last may have fewer."""
    held = POOL_SCHEMA.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= rows:
            yield held.slice(0, rows).combine_chunks()
            held = held.slice(rows)
    if len(held):
        yield held.combine_chunks()


def pool_tables(
    parts: Sequence[Part], judged: Judged, image_tokens: int | None, sources: Mapping[str, str]
) -> Iterator[pa.Table]:
    """The rows of pool.parquet. `sources`: the sources of the folders that parts left open."""
    before, usable_before = 0, 0
    for part, rows in _slices(parts):
        usable = judged.usable[rows]
        here = slice(usable_before, usable_before := usable_before + int(usable.sum()))
        kept = judged.fate[rows] == 0
        mask = pa.array(kept)
        table = read_part(part.path).slice(0, part.rows).filter(mask)
        ids = judged.ids.ids[here].filter(pa.array(kept[usable]))
        count = table["n_images"].to_numpy()
        columns = {name: table[name] for name in table.column_names} | {
            "row": pa.array(np.arange(before, before + len(table), dtype=np.int32)),
            "id": ids,
            "source": _sources(table, sources),
            "image_tokens": _image_tokens(count, image_tokens),
            "image_bytes": pa.array(judged.sizes[rows][kept]),
            "file": pa.array(np.full(len(table), part.file, np.int32)),
            "index": _index(table, part),
            "original_id": table["id"],
            "byte_length": table["byte_length"].cast(pa.int32()),
            "content_hash": hexadecimal(table["content"].combine_chunks()),
            "image_ids": _image_ids(judged.records, rows).filter(mask),
        }
        own = [
            columns.get(f.name, table[f.name] if f.name in table.column_names else None) for f in POOL_SCHEMA
        ]
        yield pa.table(own, schema=POOL_SCHEMA)
        before += len(table)


def _sources(table: pa.Table, sources: Mapping[str, str]) -> pa.ChunkedArray:
    if table["folder"].null_count == len(table):
        return table["source"]
    named = pa.array([sources.get(folder) for folder in table["folder"].to_pylist()], pa.string())
    return pc.coalesce(named, table["source"])


def _image_tokens(count: np.ndarray, each: int | None) -> pa.Array:
    return pa.nulls(len(count), pa.int32()) if each is None else pa.array(count * np.int32(each))


def _image_ids(records: Records, rows: slice) -> pa.Array:
    ends = records.starts[rows.start : rows.stop + 1]
    images = pa.array(records.images[ends[0] : ends[-1]])
    return pa.ListArray.from_arrays(pa.array((ends - ends[0]).astype(np.int32)), images)


def open_folders(parts: Sequence[Part]) -> set[str]:
    """The distinct image folders whose sources only all folders together tell."""
    found: set[str] = set()
    for part in parts:
        column = read_part(part.path, ("folder",))["folder"]
        found.update(column.unique().drop_null().to_pylist())
    return found
