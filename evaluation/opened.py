"""A suite with its questions, opened on a folder of benchmark data.

opened = open_suite("rules", Path("benchmarks"), limit=100)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import extract
from evaluation.answering import Part, task_content
from evaluation.lenient import options_of
from evaluation.mirror import Mirror
from evaluation.questions import EvaluationError, Questions
from evaluation.suite import Benchmark, Suite, load_suite
from evaluation.units import check_limit


@dataclass(frozen=True)
class Opened:
    """A suite with its questions: the parts (tasks) of each benchmark by name, and how many are asked.

    `content`: digests of the task and of the data of each part.
    """

    suite: Suite
    parts: Mapping[str, Sequence[Questions]]
    content: Mapping[str, tuple[str, str]]
    limit: int | None
    not_judged: tuple[str, ...] = ()

    def part(self, questions: Questions) -> Part:
        n = len(questions) if self.limit is None else min(len(questions), self.limit)
        return Part(questions, range(n), " ".join(self.content[questions.name]), {})


def open_suite(
    suite: str | Path | Suite,
    data: Path,
    *,
    only: Sequence[str] | None = None,
    limit: int | None = None,
    not_judged: bool = False,
) -> Opened:
    """The questions of a suite (or of its benchmarks `only`, or the first `limit` of each task).

    `not_judged`: without the benchmarks that need a judge.

    Raises EvaluationError, MirrorError, UnitError (a limit that splits a unit), ValueError (suite).
    """
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    whole = suite if only is None else suite.only(tuple(only))
    suite = reduced(whole, not_judged=not_judged)
    mirror = Mirror(Path(data))
    parts: dict[str, list[Questions]] = {}
    content: dict[str, tuple[str, str]] = {}
    for benchmark in suite:
        mirror.check(benchmark, strict=False)
        parts[benchmark.name] = []
        for task in benchmark.tasks:
            own = benchmark.data_of(task)
            questions = Questions.open(suite, benchmark, task, mirror.rows(own))
            _check_references(benchmark, questions)
            if limit is not None:
                check_limit(benchmark, questions.docs, limit)
            parts[benchmark.name].append(questions)
            content[questions.name] = task_content(suite, task.task), mirror.digest(own)
    left_out = tuple(b.name for b in whole if b.name not in parts)
    return Opened(suite, parts, content, limit, left_out)


def _check_references(benchmark: Benchmark, questions: Questions) -> None:
    """EvaluationError for a reference answer that its own extractor cannot read (kind `column` only)."""
    if benchmark.extractor.kind != "column":
        return
    for index, doc in enumerate(questions.docs):
        try:
            extract.score(doc["kind"], doc["answer"], doc["answer"], options_of(benchmark.extractor, doc))
        except ValueError as error:
            raise EvaluationError(f"{benchmark.name}, question {questions.id(index)!r}: {error}") from error


def reduced(suite: Suite, *, not_judged: bool) -> Suite:
    """The suite, without its judged benchmarks if declared not judged. ValueError if none is left."""
    if not not_judged:
        return suite
    kept = tuple(benchmark.name for benchmark in suite if benchmark.judge is None)
    if not kept:
        raise ValueError(f"suite {suite.name!r} has only judged benchmarks: none is left without a judge")
    return suite.only(kept)


def asked(benchmark: Benchmark) -> dict[str, Any]:
    """What of a benchmark decides what is asked, as JSON: tasks, data, generation settings, judge.

    The filter is one of the task's, which is not opened with another.
    """
    names = {"name", "tasks", "data", "generation", "judge", "filter"}
    return benchmark.model_dump(mode="json", include=names)


def suite_to_ask(tasks: str, benchmarks: Sequence[Mapping[str, Any]]) -> Suite:
    """A suite that is good for asking only, from what `asked` returned for each benchmark."""
    entries = [{**own, "label": own["name"], "extractor": {"kind": "short"}} for own in benchmarks]
    return Suite(name="asked", tasks=tasks, benchmarks=tuple(Benchmark(**entry) for entry in entries))
