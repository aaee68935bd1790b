"""The first stage of an evaluation: a checkpoint answers the questions, and every answer is kept.

    ask(parts_of(suite, mirror), Checkpoint(Path("runs/sft"), Settings()), Path("eval/answers"))

A unit of work is a range of one task's questions (`CHUNK` of them): each worker answers one at a time
(`evaluation.placement`), batches never cross its ends, and answers are merged by question. So the answers do
not depend on how many workers there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from curation.progress import Progress
from evaluation.journal import Answer, Answers, path_of
from evaluation.questions import Question, Questions
from evaluation.shuffled import donors, shuffled_question
from evaluation.suite import Suite

CHUNK = 512
"""Questions of a unit of work. Batches are formed inside a unit, so this number is part of the protocol."""
SHUFFLED = ".shuffled"
"""Ending of the name of a part that is asked with the images of other questions."""
Batch = list[tuple[Question, str, Answer]]
"""Questions, the hash of each one's prompt, and its answer."""


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is asked. All but `loaders`, `device` and `workers` may change an answer.

    `dtype` "auto" is bfloat16 on a GPU that has it, else float32. `template`: "training", "checkpoint" or
    "auto" (`evaluation.model`). `max_batch_tokens` bounds rows x longest prompt with its image tokens.
    `engine`: "hf", "vllm" (in process) or the base URL of a server. `workers`: processes, one for each GPU.
    """

    batch_size: int = 64
    max_batch_tokens: int | None = None
    dtype: str = "auto"
    template: str = "auto"
    engine: str = "hf"
    loaders: int = 0
    device: str | None = None
    workers: int = 1


class Respondent(Protocol):
    """Something that answers questions. `identity`: all about it that decides an answer."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def answers(self, questions: Sequence[Question]) -> Iterator[Batch]: ...


class Part(NamedTuple):
    """The questions of one task, as they are or with other images, and the indices to be asked.

    `donors`: whose images a question gets, {} for its own.
    """

    questions: Questions
    indices: Sequence[int]
    content: str
    donors: Mapping[int, int]

    @property
    def name(self) -> str:
        return f"{self.questions.name}{SHUFFLED if self.donors else ''}"

    def question(self, index: int) -> Question:
        if not self.donors:
            return self.questions.question(index)
        return shuffled_question(self.questions, index, self.donors[index])

    def identity(self, respondent: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the answers: the respondent, the task's and its data's content, the settings."""
        return {
            **respondent,
            "content": self.content,
            "generation": {key: repr(value) for key, value in sorted(self.questions.generation.items())},
            "images": "shuffled" if self.donors else "own",
        }


class AnswersOfPart(NamedTuple):
    """The answers to a part's questions, and the prompts' hashes, by index."""

    part: Part
    identity: Mapping[str, Any]
    answers: Mapping[int, Answer]
    prompts: Mapping[int, str]

    def write(self, folder: Path) -> int:
        """Write exactly these answers as a file of their own; returns their number."""
        with Answers(path_of(folder, self.part.name, self.identity), self.identity) as file:
            for index in self.part.indices:
                file.add(index, self.answers[index], self.prompts[index])
        return len(self.part.indices)


class Unit(NamedTuple):
    """Work for one worker: questions of the part at this place of the list of parts."""

    part: int
    indices: tuple[int, ...]


def shuffled_part(part: Part) -> Part | None:
    """The same questions with other images; None if no two have images. Without images: not asked again."""
    others = donors(part.questions.name, part.questions.with_images)
    if not others:
        return None
    return part._replace(indices=[i for i in part.indices if i in others], donors=others)


def units_of(parts: Sequence[Part], known: Sequence[Mapping[int, Answer]]) -> list[Unit]:
    """The ranges of all parts, without the questions whose answers are known."""
    units = []
    for at, (part, answered) in enumerate(zip(parts, known, strict=True)):
        for start in range(0, len(part.indices), CHUNK):
            if todo := tuple(i for i in part.indices[start : start + CHUNK] if i not in answered):
                units.append(Unit(at, todo))
    return units


def ask(
    parts: Sequence[Part],
    respondent: Respondent,
    folder: Path,
    *,
    workers: "Workers | None" = None,
    on_progress: Progress | None = None,
) -> list[AnswersOfPart]:
    """The answers of each part; those in `folder` are not asked again, new ones are added to it.

    `workers` answers in other processes. An error of the model is raised as it is; what was answered before
    it is kept.
    """
    about = respondent.identity
    own = [part.identity(about) for part in parts]
    paths = [path_of(folder, part.name, identity) for part, identity in zip(parts, own, strict=True)]
    with ExitStack() as stack:
        opened: dict[int, Answers] = {}
        # In the order of their names: two processes that wait for each other's files would wait for ever.
        for at in sorted(range(len(parts)), key=paths.__getitem__):
            opened[at] = stack.enter_context(Answers(paths[at], own[at]))
        files = [opened[at] for at in range(len(parts))]
        units = units_of(parts, [file.known for file in files])
        total = sum(len(part.indices) for part in parts)
        done = total - sum(len(unit.indices) for unit in units)
        if on_progress:
            on_progress(done, total)
        work = workers(units) if workers else _inline(parts, respondent, units)
        for at, batch in work:
            for index, prompt, answer in batch:
                files[at].add(index, answer, prompt)
            files[at].flush()
            done += len(batch)
            if on_progress:
                on_progress(done, total)
        return [
            AnswersOfPart(part, file.identity, dict(file.known), dict(file.prompts))
            for part, file in zip(parts, files, strict=True)
        ]


Workers = Callable[[Sequence[Unit]], Iterator[tuple[int, list[tuple[int, str, Answer]]]]]
"""Answers units somewhere: yields (place of the part, [(index, prompt hash, answer)]) batch by batch."""


def _inline(
    parts: Sequence[Part], respondent: Respondent, units: Sequence[Unit]
) -> Iterator[tuple[int, list[tuple[int, str, Answer]]]]:
    for unit in units:
        yield from answer_unit(parts[unit.part], respondent, unit)


def answer_unit(
    part: Part, respondent: Respondent, unit: Unit
) -> Iterator[tuple[int, list[tuple[int, str, Answer]]]]:
    """The batches of one unit."""
    for batch in respondent.answers([part.question(i) for i in unit.indices]):
        yield unit.part, [(question.index, prompt, answer) for question, prompt, answer in batch]


def task_content(suite: Suite, task: str) -> str:
    """16 hex digits over a task's YAML files and the code of its functions."""
    import hashlib

    from curation import closure
    from evaluation.tasks import files_of

    lines = [
        f"{file.name} "
        + (closure.file_hash(file) if file.suffix == ".py" else hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files_of(suite.folder, [task])
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
