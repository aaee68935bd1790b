"""Questions in, answers out, batch by batch: loader threads decode and tile images ahead of the model.

    for batch in answers(Answerer.load("runs/sft"), questions, loaders=4):
        for question, prompt_hash, answer in batch: ...

Batches are a function of the questions alone: neither the number of loaders nor time changes them. Loaders
are threads, since what is slow in them (decoding, resizing, reading) runs outside Python's lock and a process
would have to copy every image back.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL import Image

from curation.pool.images import strict_decoding
from evaluation.model import Answer, Answering, Messages, Prompt, new_tokens

WINDOW = 512
"""Questions that are sorted by length together."""
AHEAD = 64
"""Questions that loaders have rendered or are rendering beyond the present window."""


class AnswerError(RuntimeError):
    """A question that cannot be asked; the message names its task and index."""


class Asked(Protocol):
    """What `answers` needs of a question (`evaluation.questions.Question`)."""

    @property
    def task(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def messages(self) -> Callable[[], Messages]: ...
    @property
    def generation(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Collating(Protocol):
    """An engine whose batches can be made ahead: `generate` takes what `collate` returns."""

    def collate(self, prompts: Sequence[Prompt]) -> Any: ...
    def generate(
        self, prompts: Sequence[Prompt], generation: Mapping[str, Any], inputs: Any = None
    ) -> list[Answer]: ...


Q = TypeVar("Q", bound=Asked)
T = TypeVar("T")
R = TypeVar("R")


def answers(
    answerer: Answering, questions: Sequence[Q], *, loaders: int = 0
) -> Iterator[list[tuple[Q, str, Answer]]]:
    """One list for each batch: (question, hash of its prompt, answer). `loaders` 0: no threads.

    Raises AnswerError for a question whose images or prompt cannot be read, naming it; errors of the model
    are raised as they are.
    """
    with ExitStack() as stack:
        # For the whole time: the threads share PIL's setting, which lmms-eval turns off.
        stack.enter_context(strict_decoding())
        pool = ThreadPoolExecutor(loaders, "loader") if loaders else None
        if pool:
            stack.callback(pool.shutdown, cancel_futures=True)
        rendered = _ahead(pool, partial(_rendered, answerer), questions, AHEAD)
        while window := list(islice(rendered, WINDOW)):
            batches = list(_batches(answerer, window))
            for batch, inputs in _collated(pool, answerer, batches):
                prompts, generation = [prompt for _, prompt in batch], batch[0][0].generation
                given = {} if inputs is None else {"inputs": inputs}
                found = answerer.generate(prompts, generation, **given)
                yield [
                    (question, prompt.hash, answer)
                    for (question, prompt), answer in zip(batch, found, strict=True)
                ]


def _rendered(answerer: Answering, question: Q) -> tuple[Q, Prompt]:
    try:
        return question, answerer.prompt(question.messages())
    # PIL raises all of these on damaged data.
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnswerError(f"task {question.task}, question {question.index}: {error}") from error


def _batches(answerer: Answering, window: Sequence[tuple[Q, Prompt]]) -> Iterator[list[tuple[Q, Prompt]]]:
    """The window in batches of similar lengths; a batch may mix tasks, but not generation settings."""
    groups: dict[str, list[tuple[Q, Prompt]]] = defaultdict(list)
    for question, prompt in window:
        settings = json.dumps(dict(question.generation), sort_keys=True, default=repr)
        groups[settings].append((question, prompt))
    for group in groups.values():
        new = new_tokens(group[0][0].generation)
        for indices in answerer.batches([prompt.length + new for _, prompt in group]):
            yield [group[i] for i in indices]


def _collated(
    pool: ThreadPoolExecutor | None, answerer: Answering, batches: Sequence[list[tuple[Q, Prompt]]]
) -> Iterator[tuple[list[tuple[Q, Prompt]], Any]]:
    """Each batch with its inputs, made while the model answers the one before; None where none are made."""
    if pool is None or not isinstance(answerer, Collating):
        yield from ((batch, None) for batch in batches)
        return

    def collate(batch: list[tuple[Q, Prompt]]) -> tuple[list[tuple[Q, Prompt]], Any]:
        return batch, answerer.collate([prompt for _, prompt in batch])

    yield from _ahead(pool, collate, batches, 1)


def _ahead(
    pool: ThreadPoolExecutor | None, work: Callable[[T], R], items: Sequence[T], depth: int
) -> Iterator[R]:
    """work(item) for each item in order, at most `depth` of them before they are asked for."""
    if pool is None:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
