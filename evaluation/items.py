"""The items of a suite's benchmarks as they are, for a comparison of other data with them: no model is asked.

    held = open_items("mm14", Path("benchmarks"))
    held.benchmarks["mmstar"].questions[0]       # the words of the first question
    held.benchmarks["mmstar"].images(0)          # its images: encoded where the data hold files

`ids` and `units` are those of scores.parquet, so that what is said of an item can be joined with its score.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import shuffled
from evaluation.held_out import QUESTION
from evaluation.mirror import Mirror
from evaluation.opened import open_suite
from evaluation.questions import Questions
from evaluation.repository import MirrorError
from evaluation.suite import Suite, load_suite
from evaluation.units import unit_names

BATCH = 64
"""Rows whose images are in memory at a time."""


class Items:
    """The items of one benchmark, those of all its tasks in order.

    `ids`, `units`: as in scores.parquet; `questions`: the item's own words, without options and instructions
    where the data keep them apart. Each has one entry for an item.
    """

    def __init__(self, parts: Sequence[Questions], content: str) -> None:
        self.benchmark = parts[0].benchmark
        self.name, self.content = self.benchmark.name, content
        self._parts = parts
        self._places = [(part, index) for part in parts for index in range(len(part))]
        self.ids = [part.id(index) for part, index in self._places]
        self.units = unit_names(self.benchmark.unit, [doc for part in parts for doc in part.docs])
        self.questions = [_words(part, index) for part, index in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def images(self, item: int) -> tuple[Any, ...]:
        """The images of an item in the order of the data: bytes of files, or PIL images that the task
        itself makes (of base64 text).
        """
        part, index = self._places[item]
        columns = part.image_columns
        if not columns:
            return tuple(shuffled.images(part.messages(index)))
        rows = part.rows.select_columns(columns).with_format("arrow")
        return _encoded(rows[index : index + 1], columns)[0]

    def all_images(self) -> Iterator[tuple[Any, ...]]:
        """The images of each item in turn; `BATCH` rows are in memory at a time."""
        for part in self._parts:
            columns = part.image_columns
            if not columns:
                yield from (tuple(shuffled.images(part.messages(index))) for index in range(len(part)))
                continue
            rows = part.rows.select_columns(columns).with_format("arrow")
            for batch in rows.iter(batch_size=BATCH):
                yield from _encoded(batch, columns)


@dataclass(frozen=True)
class OpenedItems:
    """The benchmarks of a suite whose data are there, and why each of the others could not be opened."""

    suite: Suite
    benchmarks: Mapping[str, Items]
    missing: Mapping[str, str]

    def __len__(self) -> int:
        return sum(len(items) for items in self.benchmarks.values())


def open_items(
    suite: str | Path | Suite, data: Path, *, only: Sequence[str] | None = None, allow_missing: bool = False
) -> OpenedItems:
    """The items of a suite (or of its benchmarks `only`) in a mirror; judged benchmarks included.

    Raises MirrorError that names every benchmark whose data are missing, unless `allow_missing`: then they
    are in `missing`, and only a mirror without any of them is an error. Raises ValueError for the suite,
    EvaluationError without lmms-eval.
    """
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    suite = suite if only is None else suite.only(tuple(only))
    Mirror(Path(data))  # a folder that does not exist is an error of its own
    found: dict[str, Items] = {}
    missing: dict[str, str] = {}
    for benchmark in suite:
        try:
            opened = open_suite(suite, data, only=[benchmark.name])
        except MirrorError as error:
            missing[benchmark.name] = str(error)
            continue
        parts = opened.parts[benchmark.name]
        found[benchmark.name] = Items(parts, " ".join(opened.content[part.name][1] for part in parts))
    if missing and not (allow_missing and found):
        listed = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        hint = "; fetch them, or go on without them (--allow-missing)" if found else ""
        raise MirrorError(f"{len(missing)} of {len(suite)} benchmarks cannot be read{hint}: {listed}")
    return OpenedItems(suite, found, missing)


def _words(part: Questions, index: int) -> str:
    """The question of an item: its column of that name, else the prompt as the task writes it."""
    doc = {name.casefold(): value for name, value in part.docs[index].items()}
    own = next((str(doc[name]) for name in QUESTION if doc.get(name)), None)
    return part.text(index) if own is None else own


def _encoded(batch: Any, columns: Sequence[str]) -> list[tuple[bytes, ...]]:
    """The files of the images of each row of an Arrow table, from columns of images or of lists of them."""
    cells = zip(*(batch[name].to_pylist() for name in columns), strict=True)
    return [tuple(_files(row)) for row in cells]


def _files(cells: Sequence[Any]) -> Iterator[bytes]:
    for cell in cells:
        for image in cell if isinstance(cell, list) else [cell]:
            if image is not None:
                yield image["bytes"]
