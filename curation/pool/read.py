"""Open a pool and read samples by row, straight from the untouched source files."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.record import RecordOptions, parse_record
from curation.pool.sample import Sample
from curation.pool.stream import decode, record_hash


class Pool:
    """The samples that can be chosen. Only the index (`table`) is in memory; can be pickled and forked.

    `table` has the columns of `layout.POOL_SCHEMA` in row order; `hash` is the content hash; `info` is the
    content of pool.json; `files` hold the records, and `images` is the folder of their images.
    """

    def __init__(
        self, folder: Path, table: pa.Table, info: dict[str, Any], files: Sequence[Path], images: Path
    ) -> None:
        self.folder, self.table, self.info, self.hash = folder, table, info, info["hash"]
        self.files, self.images = list(files), images
        options = info.get("options", {})
        self.options = RecordOptions(options.get("image_key"), options.get("source_key"))

    @classmethod
    def open(cls, folder: Path) -> "Pool":
        """Raises PoolError if the pool is incomplete or damaged, or a source file missing or changed."""
        folder = Path(folder)
        info = read_info(folder, ("n", "hash", "files", "images"))
        files = [_located_file(entry, folder) for entry in info["files"]]
        return cls(
            folder, read_table(folder, info), info, files, _locate(info["images"], folder, "image folder")
        )

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Sample:
        row = self._checked(row)
        return self.parsed(row, decode(self.raw(row))[0])

    def samples(self, rows: Iterable[int] | None = None) -> Iterator[Sample]:
        """The samples of `rows`, in that order (default: all)."""
        for row in range(len(self)) if rows is None else rows:
            yield self[row]

    def raw(self, row: int) -> bytes:
        """The bytes of the record in its source file. Raises PoolError if they are not those of the build."""
        row = self._checked(row)
        number = self._files[row]
        # Forked readers would share a file position.
        data = os.pread(self._descriptor(number), self._lengths[row], self._offsets[row])
        if record_hash(data) != self._hashes[row]:
            raise PoolError(
                f"{self.files[number]} changed since the pool {self.folder} was built: row {row}, "
                f"{self._lengths[row]:,} bytes from byte {self._offsets[row]:,}, is another record; build "
                "the pool again"
            )
        return data

    @cached_property
    def image_table(self) -> pa.Table:
        """images.parquet: what is known of each image file."""
        path = self.folder / "images.parquet"
        try:
            return pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise PoolError(f"{path} cannot be read ({error}); build the pool again") from error

    def parsed(self, row: int, value: Any) -> Sample:
        """The sample of `row`, whose record parses to `value`."""
        record = parse_record(value, self.options)
        images = tuple(self.images / path for path in record.images)
        own = self._ids[row].as_py(), self._sources[row].as_py()
        return Sample(row, *own, images, record.turns, record.system)

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a pool with {len(self)} rows")
        return int(row)

    def _descriptor(self, number: int) -> int:
        found = self._descriptors.get(number)
        if found is None:
            found = self._descriptors[number] = os.open(self.files[number], os.O_RDONLY)
        return found

    @cached_property
    def _descriptors(self) -> dict[int, int]:
        return {}

    @cached_property
    def _files(self) -> np.ndarray:
        return self.table["file"].to_numpy()

    @cached_property
    def _hashes(self) -> np.ndarray:
        return self.table["record_hash"].to_numpy()

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self.table["byte_offset"].to_numpy()

    @cached_property
    def _lengths(self) -> np.ndarray:
        return self.table["byte_length"].to_numpy()

    @cached_property
    def _ids(self) -> pa.Array:
        return self.table["id"].combine_chunks()

    @cached_property
    def _sources(self) -> pa.Array:
        return self.table["source"].combine_chunks()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_descriptors"}

    def __del__(self) -> None:
        for descriptor in self.__dict__.pop("_descriptors", {}).values():
            os.close(descriptor)


def read_info(folder: Path, keys: Iterable[str]) -> dict[str, Any]:
    """pool.json, which must hold `keys`. Raises PoolError; PoolArgumentError if `folder` is not a folder."""
    marker = folder / "pool.json"
    if not folder.is_dir():
        raise PoolArgumentError(
            f"{folder} holds no finished pool: it is not a folder; run python -m curation.pool build"
        )
    if not marker.is_file():
        raise PoolError(f"{folder} holds no finished pool (no pool.json); run python -m curation.pool build")
    try:
        info = json.loads(marker.read_text())
    except ValueError as error:
        raise PoolError(f"{marker} is not valid JSON ({error}); build the pool again") from error
    if not isinstance(info, dict) or not set(keys) <= info.keys():
        raise PoolError(f"{marker} does not describe a pool; build the pool again")
    return info


def read_table(folder: Path, info: dict[str, Any]) -> pa.Table:
    """pool.parquet, whose length must be `info["n"]`. Raises PoolError."""
    path = folder / "pool.parquet"
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"{path} cannot be read ({error}); build the pool again") from error
    if len(table) != info["n"]:
        raise PoolError(
            f"{path} has {len(table):,} rows, but pool.json says {info['n']}; build the pool again"
        )
    if "idx" not in table.column_names:  # a pool from before that column
        table = table.append_column("idx", pa.nulls(len(table), pa.string()))
    return table


def _located_file(entry: dict[str, Any], folder: Path) -> Path:
    path = _locate(entry, folder, "source file")
    if path.stat().st_size != entry["bytes"]:
        raise PoolError(
            f"{path} has {path.stat().st_size:,} bytes, not the {entry['bytes']:,} that the pool {folder} "
            "was built from; build the pool again"
        )
    return path


def _locate(entry: dict[str, Any], folder: Path, noun: str) -> Path:
    for path in ((folder / entry["relative"]).resolve(), Path(entry["path"])):
        if path.exists():
            return path
    raise PoolError(
        f"the {noun} of the pool {folder} does not exist: neither {entry['relative']} relative to it nor "
        f"{entry['path']}; put it back, or build the pool again from its new place"
    )
