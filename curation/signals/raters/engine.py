"""What the inference engines have in common: how digits are read from listed tokens, and the check at the start.

An engine lists only the most likely tokens. A digit that is not listed gets probability 0; what it could have had is
bounded and reported. A query for which no digit is listed has no score.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn
from curation.taxonomy import MAX_SCORE


class EngineError(RuntimeError):
    """An engine that cannot be used for scoring, or that fails too often; the message says what to do."""


@dataclass(frozen=True)
class Failed:
    """No result for a sample. `engine` tells whether the engine failed or the sample itself cannot be sent."""

    reason: str
    engine: bool = True


@dataclass(frozen=True)
class Digits:
    """Log-probabilities float64 [6] of the digits 0..5, -inf where a digit was not listed, and the most probability that
    the unlisted digits can have together."""

    log_probs: np.ndarray
    hidden: float

    @property
    def unlisted(self) -> int:
        """Digits that were not listed."""
        return int(np.isneginf(self.log_probs).sum())


Listed = Mapping[Any, float]
"""Most likely tokens (id or text) -> natural-log probability."""


class Engine(Protocol):
    """A back end. Samples come in the pool's order; there is one result for each, in that order."""

    def digits(
        self, samples: Iterable[Sample], queries: Sequence[str]
    ) -> Iterator[list[Digits | None] | Failed]:
        """For each sample the digits at the end of each query (None where none was listed)."""
        ...

    def write(self, samples: Iterable[Sample], query: str, max_tokens: int) -> Iterator[str | Failed]:
        """For each sample the greedy answer to one query."""
        ...

    def listed(self, samples: Sequence[Sample], query: str) -> list[Listed | Failed]:
        """For each sample the tokens listed at the end of one query."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the values, besides pool and prompts."""
        ...

    def summary(self) -> dict[str, Any]:
        """What the work of this run has cost."""
        ...


def read_digits(listed: Iterable[tuple[int | None, float]]) -> Digits | None:
    """Digits from the listed tokens, each (digit, or None for another token; natural-log probability).

    Tokens of the same digit (with and without a space before it) add up. An unlisted token is at most as likely as the
    least likely listed one, and all unlisted tokens share what the listed ones leave. None where no digit is listed.
    """
    listed = list(listed)
    shares = np.exp([value for _, value in listed])
    p = np.zeros(MAX_SCORE + 1)
    for (digit, _), share in zip(listed, shares, strict=True):
        if digit is not None:
            p[digit] += share
    if not p.any():
        return None
    hidden = min(max(1.0 - shares.sum(), 0.0), float((p == 0).sum() * shares.min()))
    with np.errstate(divide="ignore"):
        return Digits(np.log(np.minimum(p, 1.0)), hidden)


BLIND = 1e-4
"""Log-probabilities of two images that differ by no more than this are those of a model that sees no image."""


def check_engine(engine: Engine, query: str, with_images: bool) -> None:
    """Ask once before a pool is scored: does the engine answer, list tokens, and see images?

    The same text with two images, each sent twice and all at the same time: the images must differ by more than twice
    what repeating one changes. Caches that confuse images under load have been reported (vLLM issue 20261).
    Raises EngineError.
    """
    samples = _probes() if with_images else [Sample(-1, "probe", "", (), (Turn("Is the sky blue?", "Yes."),))]
    listed = engine.listed(samples, query)
    if failed := [entry for entry in listed if isinstance(entry, Failed)]:
        raise EngineError(
            f"the engine gives no scores ({failed[0].reason}): it must answer chats with images and list log-probabilities"
        )
    if with_images:
        seen = difference(listed[0], listed[1])
        noise = max(difference(listed[0], listed[2]), difference(listed[1], listed[3]))
        if seen <= 2 * noise + BLIND:
            raise EngineError(
                f"two different images change log-probabilities by {seen:.2g}, repeating one by {noise:.2g}: the engine does not see images, "
                "or its cache confuses them; serve a vision model, or turn its prefix cache off"
            )


def difference(a: Listed, b: Listed) -> float:
    """The largest change of a log-probability among the tokens that both list; infinite where they share none."""
    return max((abs(a[token] - b[token]) for token in a.keys() & b.keys()), default=float("inf"))


def _probes() -> list[Sample]:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    images = [Image.new("RGB", (224, 224), "white"), Image.fromarray(noise)]
    turn = Turn(f"{IMAGE_PLACEHOLDER}\nDescribe the image.", "A picture.")
    return [Sample(-1, f"probe {i}", "", (images[i % 2],), (turn,)) for i in range(4)]
