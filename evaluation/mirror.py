"""Benchmark data in a local folder: each repository under its name, as a download of it leaves it.

    mirror = Mirror(Path("benchmarks"))
    mirror.check(benchmark)                       # MirrorError says what is missing
    rows = mirror.rows(benchmark.data)            # datasets.Dataset, mapped into memory
    identity = mirror.digest(benchmark.data)      # of the content, wherever it lies

Nothing here uses the network. Arrow copies of the data lie beside them in `.arrow/`, one for each content.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import arrow_cache
from evaluation.repository import Hashes, MirrorError, Repository, sha256
from evaluation.suite import Benchmark, Data, Images, Task

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["Mirror", "MirrorError"]
IN_MEMORY = 64 * 2**20
"""Bytes of a single data file up to which it is read as it is, without an Arrow copy."""


class Mirror:
    """A folder with `organisation/name/` for each repository, or with data files of its own."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """`fresh`: hash every file again, also those that seem unchanged.

        Raises MirrorError if the folder does not exist.
        """
        self.folder, self._fresh = Path(folder), fresh
        if not self.folder.is_dir():
            raise MirrorError(f"mirror {self.folder} does not exist, or is no folder")

    def rows(self, data: Data) -> "Dataset":
        """The rows of a split that count. Raises MirrorError if they are missing, incomplete or damaged."""
        if data.where:
            return _only(self.rows(_whole(data)), *data.where)
        files = self.files(data)
        if data.file and _is_small(files[0]):
            return _small(files[0])
        name = f"{data.config or 'default'}-{data.split}.arrow" if data.repo else "rows.arrow"
        folder = self.arrow / (data.repo or "files").replace("/", "--") / self.digest(data)
        return arrow_cache.mapped(partial(self._tables, data, files), folder / name)

    def digest(self, data: Data) -> str:
        """16 hex digits of the content of the split's files, and of which rows count.

        Names and places of the files do not matter.
        """
        if data.where:
            return _digest([self.digest(_whole(data)), repr(data.where)])
        files = self.files(data) + (self.files(_split_of(data.images, data)) if data.images else [])
        small = data.file and _is_small(files[0])  # nothing is written beside files that are read as they are
        hashes = [sha256(file) if small else self.hashes.of(file) for file in files]
        return _digest([*hashes, *([repr(data.images)] if data.images else [])])

    def check(self, benchmark: Benchmark, *, strict: bool = False) -> None:
        """Raises MirrorError unless the data of all tasks are there, whole, and have the columns.

        strict: also the expected number of questions.
        """
        for task in benchmark.tasks:
            data = benchmark.data_of(task)
            self._check_columns(data)
            n = self.questions(benchmark, task)
            if not n or (strict and n != (task.n or n)):
                expected = f" instead of {task.n}" if task.n else ""
                raise MirrorError(
                    f"task {task.task}: {n} questions{expected} in {self.files(data)[0].parent}"
                )

    def files(self, data: Data) -> list[Path]:
        """The Parquet files of a split. Raises MirrorError if there are none."""
        if data.file:
            file = self.folder / data.file
            if not file.is_file():
                raise MirrorError(f"{self.folder} lacks the data file {data.file}")
            return [file]
        return self.repository(data).files(data.config, data.split)

    def questions(self, benchmark: Benchmark, task: Task) -> int:
        """Number of questions of a task; circular copies of a question count once. Raises MirrorError."""
        data, unit = benchmark.data_of(task), benchmark.unit
        if data.where:
            column, values = data.where
            kept = (str(v) in values for file in self.files(data) for v in arrow_cache.column(file, column))
            return sum(kept)
        if unit.modulo is None:
            return sum(arrow_cache.open_parquet(file).metadata.num_rows for file in self.files(data))
        return len({number % unit.modulo for number in self._column(data, unit.by[0])})

    def columns(self, data: Data, names: Sequence[str]) -> list[dict[str, Any]]:
        """These columns of the rows that count; no image is read. Raises MirrorError."""
        wanted = list(dict.fromkeys([*names, *([data.where[0]] if data.where else [])]))
        values = {name: [v for f in self.files(data) for v in arrow_cache.column(f, name)] for name in wanted}
        rows = [dict(zip(wanted, row, strict=True)) for row in zip(*values.values(), strict=True)]
        if data.where:
            column, kept = data.where
            rows = [row for row in rows if str(row[column]) in kept]
        return rows

    def read(self, data: Data) -> None:
        """Read every row once and keep nothing. Raises MirrorError for data that are damaged inside."""
        for _ in arrow_cache.batches(self.files(data)):
            pass

    def repository(self, data: Data) -> Repository:
        """The repository of the data. Raises MirrorError if it is missing."""
        name = data.repo or ""
        folder = self.folder / name
        if not folder.is_dir():
            held = sorted(
                f"{path.parent.name}/{path.name}" for path in self.folder.glob("[!.]*/[!.]*") if path.is_dir()
            )
            shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
            raise MirrorError(
                f"mirror {self.folder} lacks repository {name}; it has {shown or 'none'}: "
                "fetch it with python -m evaluation.data fetch"
            )
        return Repository(folder, name)

    @cached_property
    def arrow(self) -> Path:
        """Folder of the Arrow copies: in the mirror, or in the user's cache if the mirror is read-only."""
        own = self.folder / ".arrow"
        if _writable(own):
            return own
        key = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow" / "arrow" / key
        warnings.warn(f"mirror {self.folder} is read-only: Arrow copies are kept in {cache}", stacklevel=2)
        return cache

    @cached_property
    def hashes(self) -> Hashes:
        return Hashes(self.arrow / "hashes.json", self.folder, self._fresh)

    def _tables(self, data: Data, files: Sequence[Path]) -> Iterator["pa.Table"]:
        """The rows of the files, with the images of another configuration if the data say so."""
        tables = arrow_cache.batches(files)
        if data.images is None:
            return tables
        return arrow_cache.with_images(tables, self.rows(_split_of(data.images, data)), data.images)

    def _check_columns(self, data: Data) -> None:
        """The data of a task and the images that they name."""
        self._check_files(data, [*data.columns, *([data.id] if data.id else ())])
        if data.images:
            images = _split_of(data.images, data)
            self._check_files(images, [data.images.id, data.images.column])
            asked, held = self._column(data, data.images.key), self._column(images, data.images.id)
            if missing := asked - held:
                raise MirrorError(f"{self.files(images)[0].parent} lacks {len(missing)} images of questions")

    def _column(self, data: Data, name: str) -> set[Any]:
        return {value for file in self.files(data) for value in arrow_cache.column(file, name)}

    def _check_files(self, data: Data, wanted: Sequence[str]) -> None:
        """Files as they were fetched, with these columns."""
        files = self.files(data)
        if data.repo:
            self.repository(data).check_record(files, self.hashes, data.revision)
        columns = arrow_cache.features_of(files[0])
        joined = [data.images.column] if data.images else []
        if missing := [name for name in wanted if name not in columns and name not in joined]:
            raise MirrorError(f"{files[0]} lacks column {', '.join(missing)}; it has {', '.join(columns)}")


def _whole(data: Data) -> Data:
    return data.model_copy(update={"where": None})


def _only(rows: "Dataset", column: str, values: Sequence[str]) -> "Dataset":
    """The rows with one of these values in a column."""
    return rows.select([at for at, value in enumerate(rows[column]) if str(value) in values])


def splits_of(benchmark: Benchmark) -> list[Data]:
    """The splits that a benchmark reads: those of its tasks, and those of their images."""
    found: dict[Data, None] = {}
    for task in benchmark.tasks:
        data = benchmark.data_of(task)
        found[data] = None
        if data.images:
            found[_split_of(data.images, data)] = None
    return list(found)


def _split_of(images: Images, data: Data) -> Data:
    """The split of the same repository that holds the images."""
    return Data(repo=data.repo, revision=data.revision, config=images.config, split=images.split)


def _is_small(file: Path) -> bool:
    return file.stat().st_size <= IN_MEMORY


def _small(file: Path) -> "Dataset":
    """A data file in memory."""
    import datasets
    import pyarrow as pa

    tables = list(arrow_cache.batches([file]))
    return datasets.Dataset(pa.concat_tables(tables))


def _writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which is made."""
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _digest(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
