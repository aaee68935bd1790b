"""Questions in, answers out, batch by batch: loader threads decode and tile images ahead of the model.

    for batch in answers(Answerer.load("runs/sft"), questions, loaders=4):
        for question, prompt_hash, answer in batch: ...

Batches are a function of the questions alone, of the sizes of their images among it: neither the number of
loaders nor time changes them. Loaders are threads, since what is slow in them (decoding, resizing, reading)
runs outside Python's lock and a process would have to copy every image back.
"""

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from PIL import Image

from curation.pool.images import strict_decoding
from evaluation.model import Answer, Answering, Messages, Prompt, new_tokens
from evaluation.prompts import images
from training.images import image_size

WINDOW = 512
"""Most questions that are sorted by length together."""
WINDOW_BYTES = 1 << 30
"""A window ends with the question whose decoded images bring it to this size (72 pages of 1700 x 2200)."""
AHEAD = 64
"""Most questions that loaders have rendered or are rendering beyond the present window."""
AHEAD_BYTES = 1 << 28
"""Loaders begin no other question while the decoded images beyond the present window have this size."""


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
        pool = _Loaders(loaders) if loaders else None
        if pool:
            stack.callback(pool.shutdown, cancel_futures=True)
        rendered = stack.enter_context(
            closing(_ahead(pool, partial(_rendered, answerer), questions, AHEAD, _size))
        )
        for window in _windows(rendered):
            yield from _answered(pool, answerer, window)


def _answered(
    pool: "_Loaders | None", answerer: Answering, window: Sequence[tuple[Q, Prompt]]
) -> Iterator[list[tuple[Q, str, Answer]]]:
    with closing(_collated(pool, answerer, list(_batches(answerer, window)))) as collated:
        for batch, inputs in collated:
            prompts, generation = [prompt for _, prompt in batch], batch[0][0].generation
            given = {} if inputs is None else {"inputs": inputs}
            found = answerer.generate(prompts, generation, **given)
            yield [
                (question, prompt.hash, answer)
                for (question, prompt), answer in zip(batch, found, strict=True)
            ]


class _Rendered(NamedTuple):
    """A question, its prompt, and the bytes of its images as given, decoded to RGB: PIL takes 4 a pixel."""

    question: Any
    prompt: Prompt
    size: int


def _rendered(answerer: Answering, question: Asked) -> _Rendered:
    try:
        messages = question.messages()
        prompt = answerer.prompt(messages)
        sides = [image_size(picture) for picture in images(messages)]
    # PIL raises all of these on damaged data.
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnswerError(f"task {question.task}, question {question.index}: {error}") from error
    return _Rendered(question, prompt, sum(4 * height * width for height, width in sides))


def _size(rendered: _Rendered) -> int:
    return rendered.size


def _windows(rendered: Iterable[_Rendered]) -> Iterator[list[tuple[Any, Prompt]]]:
    """The questions in their order, as many together as WINDOW and WINDOW_BYTES allow.

    All in one list, which is emptied when the next window is asked for: two would take twice the memory.
    """
    window: list[tuple[Any, Prompt]] = []
    size = 0
    for question, prompt, own in rendered:
        window.append((question, prompt))
        size += own
        if len(window) >= WINDOW or size >= WINDOW_BYTES:
            yield window
            window.clear()
            size = 0
    if window:
        yield window


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
    pool: "_Loaders | None", answerer: Answering, batches: Sequence[list[tuple[Q, Prompt]]]
) -> Generator[tuple[list[tuple[Q, Prompt]], Any], None, None]:
    """Each batch with its inputs, made while the model answers the one before; None where none are made."""
    if pool is None or not isinstance(answerer, Collating):
        yield from ((batch, None) for batch in batches)
        return

    def collate(batch: list[tuple[Q, Prompt]]) -> tuple[list[tuple[Q, Prompt]], Any]:
        return batch, answerer.collate([prompt for _, prompt in batch])

    yield from _ahead(pool, collate, batches, 1)


def _ahead(
    pool: "_Loaders | None",
    work: Callable[[T], R],
    items: Sequence[T],
    depth: int,
    size: Callable[[R], int] = lambda _: 0,
) -> Generator[R, None, None]:
    """work(item) for each item in order, at most `depth` of them before they are asked for (`_Line`)."""
    if pool is None:
        yield from map(work, items)
        return
    line = _Line(pool, work, items, depth, size)
    try:
        while line.begin():
            yield line.take()
    finally:
        line.close()


class _Loaders(ThreadPoolExecutor):
    """`count` threads that decode, render and collate."""

    def __init__(self, count: int) -> None:
        super().__init__(count, "loader")
        self.count = count


class _Line(Generic[T, R]):
    """Items that loaders work on before they are asked for, in their order.

    A loader that is done with an item begins the next, unless `depth` are begun, or those that are done take
    AHEAD_BYTES by `size`, which is known only of a result. No loader waits: the batches of the present window
    are collated by the same ones.
    """

    def __init__(
        self,
        pool: _Loaders,
        work: Callable[[T], R],
        items: Sequence[T],
        depth: int,
        size: Callable[[R], int],
    ) -> None:
        self.pool, self.work, self.depth, self.size = pool, work, depth, size
        self._items, self._next = items, 0
        self._begun: deque[Future[R]] = deque()
        self._working, self._held = 0, 0  # items that loaders are at; bytes of those that are done
        self._lock = threading.Lock()

    def begin(self) -> bool:
        """Begin what may be begun; False if nothing is left to take."""
        with self._lock:
            self._fill()
        return bool(self._begun)

    def take(self) -> R:
        """The result of the first item that is begun; raises what its work raised."""
        result = self._begun[0].result()
        with self._lock:
            self._begun.popleft()
            self._held -= self.size(result)
            self._fill()
        return result

    def close(self) -> None:
        """Begin nothing more."""
        with self._lock:
            self._items = ()

    def _fill(self) -> None:
        while self._next < len(self._items) and self._working < self.pool.count and self._has_room():
            self._begun.append(self.pool.submit(self._one, self._items[self._next]))
            self._next += 1
            self._working += 1

    def _has_room(self) -> bool:
        return not self._begun or (len(self._begun) < self.depth and self._held < AHEAD_BYTES)

    def _one(self, item: T) -> R:
        size = 0
        try:
            result = self.work(item)
            size = self.size(result)
            return result
        finally:
            with self._lock:
                self._working -= 1
                self._held += size
                self._fill()
