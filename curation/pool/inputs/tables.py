"""Rows of Parquet files and of Hugging Face `datasets`, with images inside ({bytes, path}) or as paths."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.inputs.drafts import Drafts
from curation.pool.reasons import BadRecord

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS, _BYTES = 64, 1 << 26
"""Rows in memory at a time, fewer where they are large; each may hold several images."""
_COPY = "copy the whole folder that save_to_disk wrote"
_DAMAGE = (pa.ArrowException, OSError, ValueError)
"""What readers of damaged files raise; a name that is not UTF-8 is a ValueError."""
SHARD_ROWS, SHARD_BYTES = 20_000, 1 << 29


def parquet_ranges(path: Path) -> list[tuple[int, int, int, int]]:
    """(first row, rows, first row group, row groups) of the shards of a file. Raises PoolError."""
    try:
        metadata = pq.ParquetFile(path).metadata
    except _DAMAGE as error:
        raise PoolError(f"{path} is damaged or cut off ({_said(error)}); download it again") from None
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    shards: list[list[int]] = []
    row = size = 0
    for number, group in enumerate(groups):
        if (
            not shards
            or shards[-1][1] + group.num_rows > SHARD_ROWS
            or size + group.total_byte_size > SHARD_BYTES
        ):
            shards.append([row, 0, number, 0])
            size = 0
        shards[-1][1] += group.num_rows
        shards[-1][3] += 1
        row += group.num_rows
        size += group.total_byte_size
    return [tuple(shard) for shard in shards]  # type: ignore[misc]


def parquet_batches(path: Path, first: int, count: int) -> Iterator[pa.RecordBatch]:
    """The rows of row groups `first` to `first + count`. Raises PoolError."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        groups = list(range(first, first + count))
        about = [file.metadata.row_group(group) for group in groups]
        step = _step(sum(group.total_byte_size for group in about), sum(group.num_rows for group in about))
        yield from file.iter_batches(step, row_groups=groups, use_threads=False)
    except _DAMAGE as error:
        raise PoolError(
            f"{path} is damaged in row groups {first} to {first + count - 1} ({_said(error)}); download it "
            "again"
        ) from None


def arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of one file of a saved dataset (an Arrow stream). Raises PoolError."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                step = _step(batch.nbytes, len(batch)) if _is_valid(batch) else 1
                yield from (batch.slice(at, step) for at in range(0, len(batch), step))
    except _DAMAGE as error:
        raise PoolError(f"{path} is damaged or cut off ({_said(error)}); copy it again") from None


def dataset_batches(dataset: "Dataset", start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows `start` to `stop` of a dataset, images not decoded."""
    table = dataset.with_format("arrow")
    step = _step(table[start : min(start + _ROWS, stop)].nbytes, min(_ROWS, stop - start))
    for at in range(start, stop, step):
        yield from table[at : min(at + step, stop)].combine_chunks().to_batches()


def add_rows(
    batches: Iterator[pa.RecordBatch], first: int, keep: np.ndarray | None, drafts: Drafts
) -> Iterator[None]:
    """Add the rows to `drafts`, yielding after each batch. `first`: the number of the first one.

    `keep`: numbers of the rows to take; None: all.
    """
    for batch in batches:
        wanted = (
            range(first, first + len(batch)) if keep is None else _inside(keep, first, first + len(batch))
        )
        for number, row in zip(wanted, _rows(batch, [n - first for n in wanted]), strict=True):
            if isinstance(row, BadRecord):
                drafts.add_unreadable(number, None, row)
            else:
                drafts.add(row, number)
        first += len(batch)
        yield


def saved_files(folder: Path) -> list[tuple[str | None, Path]]:
    """(source, file) of the Arrow files of a folder that `datasets` saved. Raises PoolError.

    Of several splits `train` is read, else the only one.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _texts(_json(folder / "dataset_dict.json").get("splits"))
        folder = folder / only_split(splits, str(folder))
    entries = _json(folder / "state.json").get("_data_files")
    listed = entries if isinstance(entries, list) else []
    names = _texts([entry.get("filename") for entry in listed if isinstance(entry, dict)])
    if not names:
        raise PoolError(f"{folder / 'state.json'} names no data files; {_COPY}")
    if missing := next((folder / name for name in names if not (folder / name).is_file()), None):
        raise PoolError(f"{missing} does not exist; {_COPY}")
    return [(None, folder / name) for name in names]


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `datasets` saves."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def only_split(splits: list[str], name: str) -> str:
    """`train`, or the only split. Raises PoolArgumentError."""
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else splits[0]
    raise PoolArgumentError(
        f"{name} has the splits {', '.join(splits) or '(none)'}; give the folder of one of them"
    )


def load_hub(name: str) -> list[tuple[str | None, "Dataset"]]:
    """(config, dataset) of a hub id `ORG/NAME` (every config) or `ORG/NAME:CONFIG,...`.

    Raises PoolArgumentError. A dataset of one config called `default` has no source of its own.
    """
    try:
        import datasets
    except ImportError:
        raise PoolArgumentError(
            f"{name} does not exist here, and reading it from the Hub needs `datasets`: pip install datasets"
        ) from None
    refusals = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    repository, _, listed = name.partition(":")
    loaded: list[tuple[str | None, Dataset]] = []
    try:
        configs = listed.split(",") if listed else datasets.get_dataset_config_names(repository)
        for config in configs:
            found: Any = datasets.load_dataset(repository, config)
            if isinstance(found, dict):
                found = found[only_split(list(found), f"{repository}:{config}")]
            loaded.append((None if configs == ["default"] else config, found))
    except refusals as error:
        raise PoolArgumentError(
            f"{name} is neither a file or folder here nor a dataset that the Hub gives ({_said(error)})"
        ) from None
    return loaded


def _is_valid(batch: pa.RecordBatch) -> bool:
    """Arrow trusts offsets, and reads outside of the file with wrong ones, so this comes before anything."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rows(batch: pa.RecordBatch, places: list[int]) -> Iterator[dict[str, Any] | BadRecord]:
    if _is_valid(batch):
        wanted = batch.take(pa.array(places, pa.int64())) if len(places) < len(batch) else batch
        try:
            yield from wanted.to_pylist()
            return
        except UnicodeDecodeError:  # of a field's name
            pass
    yield from (_row(batch.slice(place, 1)) for place in places)  # find the row that is damaged


def _row(single: pa.RecordBatch) -> dict[str, Any] | BadRecord:
    try:
        single.validate(full=True)
    except pa.ArrowInvalid as error:
        said = _said(error)
        return BadRecord("bad_unicode" if "UTF" in said.upper() else "broken_json", said)
    try:
        return single.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadRecord("bad_unicode", _said(error))


def _inside(keep: np.ndarray, start: int, stop: int) -> list[int]:
    return keep[np.searchsorted(keep, start) : np.searchsorted(keep, stop)].tolist()


def _texts(listed: Any) -> list[str]:
    """The names in a list, without what can be none in the same folder."""
    texts = listed if isinstance(listed, list) else []
    return [text for text in texts if isinstance(text, str) and text and "/" not in text and text[0] != "."]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PoolError(f"{path} cannot be read ({_said(error)}); {_COPY}") from None
    return found if isinstance(found, dict) else {}


def _step(size: int, rows: int) -> int:
    """How many rows of so many bytes are read at a time."""
    return max(1, min(_ROWS, _BYTES * rows // max(size, 1)))


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
