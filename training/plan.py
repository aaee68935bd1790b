"""Before the training: validate examples, reject bad ones with a reason, measure lengths, plan the batches.

Reason codes: no_assistant_turn, empty_answer, image_count, too_long, missing_image, broken_image.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from curation.pool.sample import Sample
from training.images import ImageError
from training.render import IGNORE, Encoded, Renderer, RenderError


@dataclass(frozen=True)
class Rejected:
    """One example that is not trained on: index in the input, name (sample id), reason code, and details."""

    index: int
    name: str
    reason: str
    detail: str


class TooManyBad(ValueError):
    """More examples were rejected than `max_bad_fraction` allows; `counts` has the number for each reason."""

    def __init__(self, counts: dict[str, int], total: int, limit: float) -> None:
        super().__init__(
            f"{sum(counts.values())} of {total} examples rejected ({counts}), at most {limit:.2%} are allowed"
        )
        self.counts = counts


@dataclass(frozen=True)
class Prepared:
    """The examples to train on, in input order, and the rejected ones."""

    examples: Sequence[Encoded]
    rejected: list[Rejected]

    @property
    def counts(self) -> dict[str, int]:
        """Number of rejected examples for each reason."""
        return dict(Counter(r.reason for r in self.rejected))


def prepare(
    examples: Sequence[Sample | Encoded],
    renderer: Renderer,
    *,
    max_length: int | None = None,
    loss_turns: str = "all",
) -> Prepared:
    """Render and check every example. Images are opened (and decoded while the loader's cache has room)."""
    kept, rejected = [], []
    for index, example in enumerate(examples):
        try:
            encoded = example if isinstance(example, Encoded) else renderer.encode(example, loss_turns)
            check(encoded, max_length)
            for picture in encoded.images:
                renderer.loader.check(picture)
            kept.append(encoded)
        except (RenderError, ImageError) as error:
            name = example.name if isinstance(example, Encoded) else example.id
            rejected.append(Rejected(index, name, error.reason, str(error)))
    return Prepared(kept, rejected)


def check(encoded: Encoded, max_length: int | None = None) -> None:
    """Raise RenderError for an example that has no loss or is longer than `max_length` tokens."""
    if not (encoded.labels[1:] != IGNORE).any():  # the first token is never predicted
        raise RenderError("no_assistant_turn", f"{encoded.name}: no token carries a loss")
    if max_length is not None and len(encoded) > max_length:
        raise RenderError(
            "too_long", f"{encoded.name}: {len(encoded)} tokens, at most {max_length} are allowed"
        )


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation int64 [count] that depends only on (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def global_batches(
    count: int, batch_size: int, seed: int, epoch: int, lengths: np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices of each optimizer step of one epoch; every example once, the last batch may be smaller.

    With `lengths` the examples of a batch have similar lengths: they are sorted within windows of 50 batches,
    and then the batches are shuffled.
    """
    order = epoch_order(count, seed, epoch)
    if lengths is not None:
        window = 50 * batch_size
        parts = [order[i : i + window] for i in range(0, count, window)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    if lengths is not None:
        shuffle = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
        batches = [batches[i] for i in shuffle]
    return batches


class PlannedBatches:
    """Batch sampler of one rank: its share of each global batch, cut into `accumulation` micro-batches.

    The examples of an optimizer step do not depend on the number of ranks. An empty share becomes a filler,
    written as -1 - index: an example without loss, since every rank must take part in every step.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        lengths: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.count, self.batch_size, self.seed, self.lengths = count, batch_size, seed, lengths
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Optimizer steps in one epoch."""
        return -(-self.count // self.batch_size)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for batch in global_batches(self.count, self.batch_size, self.seed, self.epoch, self.lengths):
            for micro in range(self.accumulation):
                share = batch[self.rank + micro * self.world :: self.world * self.accumulation]
                yield [int(i) for i in share] or [-1 - int(batch[0])]
