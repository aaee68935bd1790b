"""The questions of a benchmark: lmms-eval's task on rows that are given, its prompt and its official scorer.

    part = Questions.open(suite, benchmark, benchmark.tasks[0], rows)
    part.question(0).messages()      # chat messages with decoded images
    part.results(["A"] * len(part))  # what the official scorer returns for these answers

lmms-eval is used as a library: no data are loaded, no model is called and no result is written by it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from evaluation.suite import Benchmark, Suite, Task
from evaluation.tasks import task_file

if TYPE_CHECKING:
    from datasets import Dataset

LOGGERS = ("lmms_eval", "utils")
"""What logs through loguru: lmms-eval, and the functions of its tasks, which it imports as `utils`."""
Messages = Sequence[Mapping[str, Any]]
"""Chat messages as in `evaluation.model`."""


class EvaluationError(RuntimeError):
    """An evaluation that cannot run, or whose results do not match the suite."""


@dataclass(frozen=True)
class Question:
    """One question to a model. `messages` decodes the images when it is called; `doc` has none.

    `index` is the question's row in the data of `task`; `generation` are lmms-eval's generation_kwargs.
    """

    benchmark: str
    task: str
    index: int
    doc: Mapping[str, Any]
    messages: Callable[[], Messages]
    generation: Mapping[str, Any]


class Questions:
    """All questions of one task of a benchmark, in the order of the data."""

    def __init__(self, benchmark: Benchmark, task: Task, lmms_task: Any, split: str) -> None:
        self.benchmark, self.task, self._task = benchmark, task, lmms_task
        self._rows = lmms_task.dataset[split]
        self.docs: list[dict[str, Any]] = lmms_task.dataset_no_image[split].to_list()
        self.generation: dict[str, Any] = {**lmms_task.config.generation_kwargs, **benchmark.generation}

    @classmethod
    def open(cls, suite: Suite, benchmark: Benchmark, task: Task, rows: "Dataset") -> "Questions":
        """The task on these rows. Raises EvaluationError if lmms-eval is missing or the task refuses them."""
        split = benchmark.data_of(task).split
        with _quiet():
            lmms_task = _lmms_task(suite, benchmark, task.task, split, rows)
            filters = [answer_filter.name for answer_filter in lmms_task._filters]
            if benchmark.filter not in filters:
                raise EvaluationError(
                    f"{benchmark.name}: its task has no filter {benchmark.filter!r}, only "
                    f"{', '.join(filters)}"
                )
            return cls(benchmark, task, lmms_task, split)

    def __len__(self) -> int:
        return len(self.docs)

    @property
    def name(self) -> str:
        """Benchmark and task; the benchmark alone if it has no other task."""
        name = self.benchmark.name
        return f"{name}/{self.task.name}" if len(self.benchmark.tasks) > 1 else name

    def id(self, index: int) -> str:
        """The name of a question: the data's own, else its position."""
        column = self.benchmark.data.id
        own = str(self.docs[index][column]) if column else str(index)
        return f"{self.task.name}/{own}" if len(self.benchmark.tasks) > 1 else own

    def question(self, index: int) -> Question:
        return Question(
            self.benchmark.name,
            self.task.task,
            index,
            self.docs[index],
            partial(self.messages, index),
            self.generation,
        )

    @property
    def rows(self) -> "Dataset":
        """The rows of the data that the task asks about, as they are stored."""
        return self._rows

    @property
    def image_columns(self) -> list[str]:
        """The columns of images, or of lists of images; none if the task makes them from other columns."""
        return [name for name, feature in self._rows.features.items() if _is_media(feature)]

    @cached_property
    def with_images(self) -> list[bool]:
        """Whether each question has an image; reads no pixel."""
        has = [False] * len(self)
        for name in self.image_columns:
            column = self._rows.select_columns([name]).with_format("arrow")
            at = 0
            for batch in column.iter(256):
                for held in _held(batch[name]):
                    has[at] |= held
                    at += 1
        return has

    def messages(self, index: int) -> Messages:
        """The prompt of a question, with its images decoded."""
        return self._task.doc_to_messages(self._rows[index])

    def text(self, index: int) -> str:
        """The text of a question's prompt, as the task writes it."""
        with _quiet():
            return str(self._task.doc_to_text(deepcopy(self.docs[index])))

    def answer_key(self, index: int) -> Any:
        """The task's reference answer in its own form (text, position, several texts); None without one."""
        with _quiet():
            doc = deepcopy(self.docs[index])
            return None if self._task.config.doc_to_target is None else self._task.doc_to_target(doc)

    def results(self, texts: Sequence[str], docs: Sequence[Mapping[str, Any]] | None = None) -> list[Any]:
        """What the official scorer returns for these answers to the first questions (or to `docs`)."""
        from lmms_eval.api.instance import Instance

        docs = self.docs[: len(texts)] if docs is None else docs
        instances = [
            Instance("generate_until", (), 0, {"task": self.task.task, "doc_id": i, "repeats": 1}, [text])
            for i, text in enumerate(texts)
        ]
        with _quiet():
            for answer_filter in self._task._filters:
                answer_filter.apply(instances, docs)
            return [
                # A copy: some scorers rewrite the reference answers in place.
                self._task.process_results(deepcopy(doc), [instance.filtered_resps[self.benchmark.filter]])
                for doc, instance in zip(docs, instances, strict=True)
            ]

    def scores(self, results: Sequence[Mapping[str, Any]]) -> list[float]:
        """The score of each question, 0..1, out of what the scorer returned. Raises EvaluationError."""
        return [_score(self.benchmark, result) for result in results]

    def official(self, results: Sequence[Mapping[str, Any]]) -> float:
        """lmms-eval's own aggregate, summed over the metrics. Raises EvaluationError if it is no number."""
        total = 0.0
        with _quiet():
            for metric in self.benchmark.metric:
                if items := [result[metric] for result in results if metric in result]:
                    total += _number(self.name, metric, self._task.aggregation()[metric](items))
        return total


def _score(benchmark: Benchmark, result: Mapping[str, Any]) -> float:
    given = [result[metric] for metric in benchmark.metric if metric in result]
    if len(given) != 1:
        raise EvaluationError(
            f"{benchmark.name}: the scorer must return one of {', '.join(benchmark.metric)} for a question, "
            f"it returned {', '.join(result) or 'nothing'}"
        )
    value = given[0]
    if isinstance(value, Mapping):
        if benchmark.item not in value:
            raise EvaluationError(
                f"{benchmark.name}: the scorer's mapping has no key {benchmark.item!r} (the suite's `item`), "
                f"only {', '.join(map(str, value))}"
            )
        value = value[benchmark.item]
    return _number(benchmark.name, benchmark.metric[0], value)


def _number(name: str, metric: str, value: Any) -> float:
    """`value` as a finite float. Raises EvaluationError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):
        raise EvaluationError(f"{name}: the metric {metric} is {value!r}, which is not a finite number")
    return number


def _lmms_task(suite: Suite, benchmark: Benchmark, name: str, split: str, rows: "Dataset") -> Any:
    try:
        import datasets
        import lmms_eval.api.metrics  # noqa: F401 - registers the aggregations that tasks name
        from lmms_eval.api.task import ConfigurableMessagesTask
        from lmms_eval.utils import load_yaml_config
    except ImportError as error:
        raise EvaluationError(f"evaluation needs lmms-eval ({error}): pip install 'winnow[eval]'") from error

    class TaskOfRows(ConfigurableMessagesTask):
        """lmms-eval's task, with rows that are given instead of loaded."""

        def download(self, dataset_kwargs: Any = None) -> None:
            process = self.config.process_docs
            questions = process(rows) if process else rows
            self.dataset = datasets.DatasetDict({split: questions})
            self.dataset_no_image = datasets.DatasetDict({split: _without_media(questions)})

    try:
        config = load_yaml_config(str(task_file(suite.folder, name)), mode="full")
    except (OSError, ImportError) as error:
        raise EvaluationError(f"{benchmark.name}: {error}") from error
    # The suite decides the split; a task's own name of it may be that of another edition.
    config |= {"task": name, "test_split": split, "validation_split": None, "training_split": None}
    if not len(rows):
        raise EvaluationError(f"{benchmark.name}: its data hold no question")
    stops = "until" in (config.get("generation_kwargs") or {})
    task = TaskOfRows(config=config)
    if not stops:
        # lmms-eval adds a stop at the first blank line, which its own models for LLaVA and Qwen ignore: an
        # answer of several paragraphs would lose all but the first.
        task.config.generation_kwargs.pop("until", None)
    return task


def _held(column: Any) -> list[bool]:
    """Whether each cell of a column of images, or of lists of them, holds one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        return pc.is_valid(column).to_pylist()
    return [bool(length) for length in pc.list_value_length(column).to_pylist()]


def _without_media(rows: "Dataset") -> "Dataset":
    """The rows without columns of images, which scorers do not read."""
    return rows.remove_columns([name for name, feature in rows.features.items() if _is_media(feature)])


def _is_media(feature: Any) -> bool:
    """Whether a column holds images or lists of images."""
    from datasets import Image

    return isinstance(feature, Image) or isinstance(getattr(feature, "feature", None), Image)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable progress bars and log lines of lmms-eval and datasets inside the block."""
    import datasets
    from loguru import logger

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for name in LOGGERS:
        logger.disable(name)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # scorers of tasks also log through the standard library
    try:
        yield
    finally:
        logging.disable(level)
        for name in LOGGERS:
            logger.enable(name)
        if shown:
            datasets.enable_progress_bars()
