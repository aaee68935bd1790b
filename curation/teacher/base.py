"""The interface of a teacher: samples in, one label per sample out, in the same order.

A teacher is an API, a local model or (mini world) the generator's metadata. Batching, concurrency, retries,
cache and cost cap are hidden behind `label`. A sample that cannot be judged yields a missing label with its
reason; a failure of the teacher itself (no connection, cost cap reached) is raised, never turned into scores.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from curation.pool.sample import Sample
from curation.teacher.rubric import Label


@dataclass(frozen=True)
class Cost:
    """Cost of labelling so far: answered requests, input and output tokens, US dollars.

    retried: repeated attempts. unanswered: attempts whose answer never came; each may have been billed, so
    `usd` holds its upper bound, and `unanswered_usd` is their part of it. kept, kept_input_tokens,
    kept_output_tokens: answers reused from the cache, and the tokens that an earlier run paid for them.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    retried: int = 0
    kept: int = 0
    kept_input_tokens: int = 0
    kept_output_tokens: int = 0
    unanswered: int = 0
    unanswered_usd: float = 0.0


@runtime_checkable
class Teacher(Protocol):
    """Labels samples."""

    name: str

    def label(self, samples: Iterable[Sample]) -> Iterator[Label]:
        """One label per sample, in order; `samples` is read lazily and only once."""
        ...

    def describe(self) -> dict[str, Any]:
        """The parameters that decide the labels, as JSON values; written to labels.json."""
        ...

    def cost(self) -> Cost:
        """Cost of all calls of `label` so far."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A teacher that is shown all samples before it labels the first."""

    def prepare(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """`samples()` reads all of them anew."""
        ...


@runtime_checkable
class SecondOpinion(Protocol):
    """A teacher that can label a sample once more, not by repeating itself."""

    def second(self) -> Self:
        """The teacher of the second labels; its cost is counted with the first's."""
        ...
