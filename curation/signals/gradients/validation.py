"""The validation set of a targeted signal: samples of the target tasks.

A sample's `source` is its task, as `task` or `task/subtask`. Sources: a pool directory; a LLaVA JSON or JSON
Lines file (whose `source` field names the task); a directory of `<task>.parquet` files with the columns image
({bytes, path}), question and answer, the form of the mini benchmarks.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn


class ValidationError(ValueError):
    """A validation set that cannot be used."""


class Items:
    """Validation items with what producers read of a pool: `hash`, their number, and samples by place.

    given: the samples, or a path that `read_validation` reads with `scratch` and `images`. Raises
    ValidationError.
    """

    def __init__(self, given: Path | Sequence[Sample], scratch: Path, images: Path | None = None) -> None:
        samples = (
            read_validation(Path(given), scratch, images) if isinstance(given, str | Path) else list(given)
        )
        self.tasks, self.hash = tasks_of(samples), validation_hash(samples)
        # Broken images are recorded by sample id: those of items must not be those of the pool.
        self._samples = [replace(sample, id=f"validation/{at}") for at, sample in enumerate(samples)]

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self, rows: Iterable[int]) -> Iterator[Sample]:
        """The items at `rows`, in that order."""
        return (self._samples[row] for row in rows)


def read_validation(path: Path, scratch: Path, images: Path | None = None) -> list[Sample]:
    """All samples of a validation set.

    A JSON file is built into a pool in `scratch`; its image paths are relative to `images` (default: the
    file's folder).
    Raises ValidationError, and PoolError for records that cannot be used.
    """
    path = Path(path)
    if path.is_file():
        return _from_json(path, scratch, images)
    if (path / "pool.json").is_file():
        return _from_pool(path)
    tables = sorted(path.glob("*.parquet"))
    if not tables:
        raise ValidationError(
            f"{path} is not a validation set: neither a pool, nor a LLaVA JSON file, "
            "nor a folder of <task>.parquet"
        )
    return [sample for table in tables for sample in _from_table(table)]


def tasks_of(samples: Sequence[Sample]) -> dict[str, dict[str, list[int]]]:
    """Task -> subtask -> indices of samples; the subtask of a task without subtasks is "".

    Other characters than [0-9A-Za-z_] in task names become "_", for column names. Raises ValidationError for
    a missing task, two tasks with the same column name, and an empty set.
    """
    tasks: dict[str, dict[str, list[int]]] = {}
    spelled: dict[str, str] = {}
    for index, sample in enumerate(samples):
        raw, _, subtask = sample.source.partition("/")
        task = re.sub(r"\W", "_", raw, flags=re.ASCII)
        if not raw or spelled.setdefault(task, raw) != raw:
            other = f", already taken by {spelled[task]!r}" if raw else ""
            raise ValidationError(
                f"validation sample {sample.id}: task {raw!r} gives no unique column influence_{task}{other}"
            )
        tasks.setdefault(task, {}).setdefault(subtask, []).append(index)
    if not tasks:
        raise ValidationError("the validation set is empty")
    return dict(sorted(tasks.items()))


def validation_hash(samples: Sequence[Sample]) -> str:
    """sha256 over tasks, conversations and image contents, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        turns = [(turn.question, turn.answer) for turn in sample.turns]
        digest.update(repr((sample.source, sample.system, turns)).encode())
        for image in sample.images:
            digest.update(image.tobytes() if isinstance(image, Image.Image) else Path(image).read_bytes())
    return digest.hexdigest()


def _from_pool(folder: Path) -> list[Sample]:
    from curation.pool.read import Pool

    return list(Pool.open(folder).samples())


def _from_json(file: Path, scratch: Path, images: Path | None) -> list[Sample]:
    from curation.pool.ingest import build_pool

    build_pool(file, images or file.parent, scratch, max_bad_fraction=0.0)
    return _from_pool(scratch)


def _from_table(file: Path) -> Iterator[Sample]:
    table = pq.read_table(file)
    if missing := {"image", "question", "answer"} - set(table.column_names):
        raise ValidationError(f"{file} lacks the columns {sorted(missing)}")
    for number, item in enumerate(table.select(["image", "question", "answer"]).to_pylist()):
        images = (_picture(item["image"], file),) if item["image"] else ()
        question = "\n".join([IMAGE_PLACEHOLDER] * len(images) + [item["question"]])
        yield Sample(number, f"{file.stem}-{number}", file.stem, images, (Turn(question, item["answer"]),))


def _picture(image: dict[str, Any], file: Path) -> Image.Image | Path:
    return Image.open(io.BytesIO(image["bytes"])) if image["bytes"] else file.parent / image["path"]
