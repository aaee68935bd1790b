"""Open a pool and read samples by row, straight from the untouched source file."""

import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.pool.errors import PoolError
from curation.pool.record import parse_record
from curation.pool.sample import Sample


class Pool:
    """The samples that can be chosen. Only the index (`table`) is in memory; may be pickled and forked.

    `table` has the columns of `ingest.POOL_SCHEMA` in row order; `hash` is the content hash; `info` is pool.json.
    """

    def __init__(
        self, folder: Path, table: pa.Table, info: dict[str, Any], source: Path, images: Path
    ) -> None:
        self.folder, self.table, self.info, self.hash = folder, table, info, info["hash"]
        self.source, self.images = source, images

    @classmethod
    def open(cls, folder: Path) -> "Pool":
        """Raises PoolError if the pool is not complete, or if its source file is gone or has another size."""
        folder = Path(folder)
        marker = folder / "pool.json"
        if not marker.is_file():
            raise PoolError(
                f"{folder} holds no finished pool (no pool.json); run python -m curation.pool build"
            )
        info = json.loads(marker.read_text())
        source = _locate(info["source"], folder, "source file")
        if source.stat().st_size != info["source"]["bytes"]:
            raise PoolError(
                f"{source} has {source.stat().st_size:,} bytes, not the {info['source']['bytes']:,} that "
                f"the pool {folder} was built from; build the pool again"
            )
        return cls(
            folder,
            pq.read_table(folder / "pool.parquet"),
            info,
            source,
            _locate(info["images"], folder, "image folder"),
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
        """The record as it stands in the source file, byte for byte."""
        row = self._checked(row)
        offset, length = self._offsets[row], self._lengths[row]
        data = os.pread(self._descriptor, length, offset)  # pread: forked readers share no file position
        if len(data) != length:
            raise PoolError(f"{self.source} ends inside row {row}; it changed since the pool was built")
        return data

    def _sample(self, row: int) -> Sample:
        record = parse_record(json.loads(self.raw(row)))
        images = tuple(self.images / path for path in record.images)
        return Sample(row, self._ids[row].as_py(), self._sources[row].as_py(), images, record.turns)

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a pool with {len(self)} rows")
        return int(row)

    @cached_property
    def _descriptor(self) -> int:
        return os.open(self.source, os.O_RDONLY)

    @cached_property
    def _offsets(self) -> list[int]:
        return self.table["byte_offset"].to_numpy()

    @cached_property
    def _lengths(self) -> list[int]:
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


def _locate(entry: dict[str, Any], folder: Path, what: str) -> Path:
    for path in ((folder / entry["relative"]).resolve(), Path(entry["path"])):
        if path.exists():
            return path
    raise PoolError(
        f"the {what} of the pool {folder} is not there: neither {entry['relative']} beside it nor "
        f"{entry['path']}; put it back, or build the pool again from where it lies now"
    )
