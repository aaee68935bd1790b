"""Open a pool and read samples by row, straight from the untouched source file."""

import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.record import parse_record
from curation.pool.sample import Sample


class Pool:
    """The samples that can be chosen. Only the index (`table`) is in memory; can be pickled and forked.

    `table` has the columns of `ingest.POOL_SCHEMA` in row order; `hash` is the content hash; `info` is the
    content of pool.json.
    """

    def __init__(
        self, folder: Path, table: pa.Table, info: dict[str, Any], source: Path, images: Path
    ) -> None:
        self.folder, self.table, self.info, self.hash = folder, table, info, info["hash"]
        self.source, self.images = source, images

    @classmethod
    def open(cls, folder: Path) -> "Pool":
        """Raises PoolError if the pool is incomplete or damaged, or its source file missing or changed."""
        folder = Path(folder)
        info = read_info(folder, ("n", "hash", "source", "images"))
        source = _locate(info["source"], folder, "source file")
        if source.stat().st_size != info["source"]["bytes"]:
            raise PoolError(
                f"{source} has {source.stat().st_size:,} bytes, not the {info['source']['bytes']:,} that "
                f"the pool {folder} was built from; build the pool again"
            )
        return cls(
            folder, read_table(folder, info), info, source, _locate(info["images"], folder, "image folder")
        )

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Sample:
        return self._sample(self._checked(row))

    def samples(self, rows: Iterable[int] | None = None) -> Iterator[Sample]:
        """The samples of `rows`, in that order (default: all)."""
        for row in range(len(self)) if rows is None else rows:
            yield self[row]

    def raw(self, row: int) -> bytes:
        """The bytes of the record in the source file."""
        row = self._checked(row)
        offset, length = self._offsets[row], self._lengths[row]
        data = os.pread(self._descriptor, length, offset)  # forked readers would share a file position
        if len(data) != length:
            raise PoolError(f"{self.source} ends inside row {row}; it changed since the pool was built")
        return data

    def _sample(self, row: int) -> Sample:
        record = parse_record(json.loads(self.raw(row)))
        images = tuple(self.images / path for path in record.images)
        own = self._ids[row].as_py(), self._sources[row].as_py()
        return Sample(row, *own, images, record.turns, record.system)

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a pool with {len(self)} rows")
        return int(row)

    @cached_property
    def _descriptor(self) -> int:
        return os.open(self.source, os.O_RDONLY)

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
        return {key: value for key, value in self.__dict__.items() if key != "_descriptor"}

    def __del__(self) -> None:
        if "_descriptor" in self.__dict__:
            os.close(self.__dict__.pop("_descriptor"))


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
    return table


def _locate(entry: dict[str, Any], folder: Path, noun: str) -> Path:
    for path in ((folder / entry["relative"]).resolve(), Path(entry["path"])):
        if path.exists():
            return path
    raise PoolError(
        f"the {noun} of the pool {folder} does not exist: neither {entry['relative']} relative to it nor "
        f"{entry['path']}; put it back, or build the pool again from its new place"
    )
