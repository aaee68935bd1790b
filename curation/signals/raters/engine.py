"""What the inference engines share: the interface, reading digits from tokens, the check before scoring.

An engine lists log-probabilities of the most likely tokens only. A digit that is not listed gets probability
0; the mass it may have had is bounded and reported. A query for which no digit is listed has no score.
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
    """No result for a sample. engine: True where the engine failed, False where the sample cannot be sent."""

    reason: str
    engine: bool = True


@dataclass(frozen=True)
class DigitLogProbs:
    """Log-probabilities float64 [6] of the digits 0..5, -inf for a digit that was not listed.

    unlisted_mass: upper bound of the total probability of the digits that were not listed.
    """

    log_probs: np.ndarray
    unlisted_mass: float

    @property
    def n_unlisted(self) -> int:
        """Number of digits that were not listed."""
        return int(np.isneginf(self.log_probs).sum())


Listed = Mapping[Any, float]
"""Most likely tokens (id or text) -> natural log-probability."""


class Engine(Protocol):
    """An inference engine. Every method returns one result for each sample, in the order of the samples."""

    def digits(
        self, samples: Iterable[Sample], queries: Sequence[str]
    ) -> Iterator[list[DigitLogProbs | None] | Failed]:
        """The digits at the end of each query; None for a query for which no digit was listed."""
        ...

    def write(self, samples: Iterable[Sample], query: str, max_tokens: int) -> Iterator[str | Failed]:
        """The greedily decoded answer to one query."""
        ...

    def listed(self, samples: Sequence[Sample], query: str) -> list[Listed | Failed]:
        """The tokens listed at the end of one query."""
        ...

    def identity(self) -> dict[str, Any]:
        """What determines the values, apart from pool and prompts."""
        ...

    def summary(self) -> dict[str, Any]:
        """Requests, tokens and cost of this run, as far as the engine counts them."""
        ...


def read_digits(listed: Iterable[tuple[int | None, float]]) -> DigitLogProbs | None:
    """Digits from listed tokens, given as (digit, or None for another token; natural log-probability).

    Tokens of the same digit (with and without a preceding space) add up. An unlisted token is at most as
    likely as the least likely listed one, and all unlisted tokens share the probability that the listed ones
    leave. None where no digit is listed.
    """
    listed = list(listed)
    shares = np.exp([log_prob for _, log_prob in listed])
    p = np.zeros(MAX_SCORE + 1)
    for (digit, _), share in zip(listed, shares, strict=True):
        if digit is not None:
            p[digit] += share
    if not p.any():
        return None
    unlisted_mass = min(max(1.0 - shares.sum(), 0.0), float((p == 0).sum() * shares.min()))
    with np.errstate(divide="ignore"):  # log(0) = -inf marks an unlisted digit
        return DigitLogProbs(np.log(np.minimum(p, 1.0)), unlisted_mass)


BLIND = 1e-4
"""Largest difference of log-probabilities between two images at which a model is taken not to see images."""


def check_engine(engine: Engine, query: str, with_images: bool) -> None:
    """Check once before a pool is scored that the engine answers, lists tokens and sees images.

    The same text is sent with two images, each twice, all at the same time: the images must differ by more
    than twice what repeating one changes. Caches that confuse images under load have been reported (vLLM
    issue 20261).
    Raises EngineError.
    """
    samples = _probes() if with_images else [Sample(-1, "probe", "", (), (Turn("Is the sky blue?", "Yes."),))]
    results = engine.listed(samples, query)
    if failed := [result for result in results if isinstance(result, Failed)]:
        raise EngineError(
            f"the engine returns no log-probabilities ({failed[0].reason}): "
            "it must answer chats with images and list log-probabilities"
        )
    if with_images:
        first, second, first_again, second_again = (r for r in results if not isinstance(r, Failed))
        between = difference(first, second)
        noise = max(difference(first, first_again), difference(second, second_again))
        if between <= 2 * noise + BLIND:
            raise EngineError(
                f"two different images change log-probabilities by {between:.2g}, "
                f"repeating one by {noise:.2g}: the engine does not see images, or its cache confuses them; "
                "serve a vision model, or turn its prefix cache off"
            )


def difference(a: Listed, b: Listed) -> float:
    """The largest change of a log-probability among tokens that both list; infinite where they share none."""
    return max((abs(a[token] - b[token]) for token in a.keys() & b.keys()), default=float("inf"))


def _probes() -> list[Sample]:
    """White, noise, white, noise."""
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    images = [Image.new("RGB", (224, 224), "white"), Image.fromarray(noise)]
    turn = Turn(f"{IMAGE_PLACEHOLDER}\nDescribe the image.", "A picture.")
    return [Sample(-1, f"probe {i}", "", (images[i % 2],), (turn,)) for i in range(4)]
