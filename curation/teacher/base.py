"""The interface of a teacher: samples in, one label for each out, in the same order.

A teacher may be an API, a local model or (mini world) the generator's metadata. What differs stays inside `label`:
batching, concurrency, retries, a cache, a cost cap. A sample that cannot be judged yields a missing label with its
reason; a failure of the teacher itself (no connection, cost cap reached) is raised, never turned into scores.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from curation.pool.sample import Sample
from curation.teacher.rubric import Label


@dataclass(frozen=True)
class Cost:
    """What labelling has cost so far: requests answered, tokens read and written, US dollars.

    retried: attempts that were repeated. kept: answers that an earlier run had paid for, with what they had cost it in tokens.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    retried: int = 0
    kept: int = 0
    kept_input_tokens: int = 0
    kept_output_tokens: int = 0


@runtime_checkable
class Teacher(Protocol):
    """Anything that labels samples."""

    name: str

    def label(self, samples: Iterable[Sample]) -> Iterator[Label]:
        """One label for each sample, in the order of `samples`, which is read lazily and only once."""
        ...

    def describe(self) -> dict[str, Any]:
        """The parameters that decide the labels, JSON-able; written to labels.json."""
        ...

    def cost(self) -> Cost:
        """What the calls of `label` so far have cost."""
        ...
