"""Before the training: what is left out and why, and which examples each step and rank trains on.

Reason codes: no_assistant_turn, empty_answer, image_count, too_long, missing_image, broken_image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.packing import PackRule, micro_steps_needed
from training.render import IGNORE, Encoded, RenderError


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
    count: int,
    batch_size: int,
    seed: int,
    epoch: int,
    lengths: np.ndarray | None = None,
    has_image: np.ndarray | None = None,
    drop_last: bool = False,
) -> list[np.ndarray]:
    """Indices of each optimizer step of one epoch; every example once, the last batch may be smaller.

    With `lengths` int [count] the examples of a batch have similar lengths: they are sorted within windows of
    50 batches, and then the batches are shuffled. With `has_image` bool [count] instead, batches hold
    examples with images only or without only, see `_by_modality`. `drop_last` leaves a smaller batch out.
    """
    if lengths is not None and has_image is not None:
        raise ValueError("batches are grouped by length or by modality: give lengths or has_image, not both")
    if lengths is not None:
        batches = _by_length(count, batch_size, seed, epoch, lengths)
    elif has_image is not None:
        batches = _by_modality(batch_size, seed, epoch, has_image)
    else:
        batches = _cut(epoch_order(count, seed, epoch), batch_size)
    return [batch for batch in batches if len(batch) == batch_size or not drop_last]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def _by_length(count: int, batch_size: int, seed: int, epoch: int, lengths: np.ndarray) -> list[np.ndarray]:
    windows = _cut(epoch_order(count, seed, epoch), 50 * batch_size)
    order = np.concatenate([window[np.argsort(-lengths[window], kind="stable")] for window in windows])
    batches = _cut(order, batch_size)
    shuffle = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
    return [batches[i] for i in shuffle]


def _by_modality(batch_size: int, seed: int, epoch: int, has_image: np.ndarray) -> list[np.ndarray]:
    """Batches as LLaVA's `group_by_modality_length` composes them.

    Examples with and without images are shuffled apart and cut into batches, and the batches of both kinds
    are shuffled. The last batch of each kind, full or not, is held back; what is held back comes at the end,
    in the order of its indices. LLaVA sorts by length only within a batch, which decides the rank that gets
    an example (see `even_chunks`) and not the batch that it is in. If all examples are of one kind, nothing
    is held back.
    """
    order = epoch_order(len(has_image), seed, epoch)
    kinds = [_cut(order[has_image[order] == kind], batch_size) for kind in (True, False)]
    if not all(kinds):
        return kinds[0] or kinds[1]
    batches = kinds[0][:-1] + kinds[1][:-1]
    shuffle = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
    held_back = np.sort(np.concatenate([kinds[0][-1], kinds[1][-1]]))
    return [batches[i] for i in shuffle] + _cut(held_back, batch_size)


def even_chunks(batch: np.ndarray, lengths: np.ndarray, chunks: int) -> list[np.ndarray]:
    """A batch cut into equally many examples with even sums of `lengths`, as LLaVA's sampler deals it to
    ranks.

    The longest example first, each into the chunk with the smallest sum that is not full yet. A batch that
    does not divide evenly is dealt in turn instead.
    """
    order = batch[np.argsort(-lengths[batch], kind="stable")]
    if len(batch) % chunks:
        return [order[i::chunks] for i in range(chunks)]
    out: list[list[int]] = [[] for _ in range(chunks)]
    sums = np.zeros(chunks)
    for index in order.tolist():
        at = int(sums.argmin())
        out[at].append(index)
        sums[at] = np.inf if len(out[at]) == len(batch) // chunks else sums[at] + lengths[index]
    return [np.array(chunk, dtype=np.int64) for chunk in out]


class PlannedBatches:
    """Batch sampler of one rank: its share of each global batch, cut into `accumulation` micro-batches.

    The examples of an optimizer step do not depend on the number of ranks. An empty share becomes a filler,
    written as -1 - index: an example without loss, since every rank must take part in every step.

    `lengths`: group by length; `has_image`: group by modality; neither: random (see `global_batches`). With
    `packs`, the examples of a step are packed: a micro-batch is one pack, and `accumulation` is at least the
    number that `micro_steps` gives. Without, examples are dealt in turn or, with `deal` int [count], into
    chunks with even sums of it.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        lengths: np.ndarray | None = None,
        has_image: np.ndarray | None = None,
        drop_last: bool = False,
        packs: PackRule | None = None,
        deal: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ) -> None:
        if drop_last and count < batch_size:
            raise ValueError(f"drop_last leaves nothing of {count} examples in batches of {batch_size}")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.lengths, self.has_image, self.drop_last = lengths, has_image, drop_last
        self.packs, self.deal = packs, deal
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Optimizer steps in one epoch."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def steps_of(self, epoch: int) -> list[np.ndarray]:
        """The examples of each optimizer step of an epoch."""
        return global_batches(
            self.count, self.batch_size, self.seed, epoch, self.lengths, self.has_image, self.drop_last
        )

    def micro_steps(self, epochs: int) -> int:
        """Micro-steps that each step of `epochs` epochs takes when packed; the `accumulation` to set."""
        if self.packs is None:
            raise ValueError("micro_steps is known for packed batches only: give packs")
        steps = (step for epoch in range(epochs) for step in self.steps_of(epoch))
        return micro_steps_needed(steps, self.packs.lengths, self.world, self.packs.cap)

    def shares(self, step: np.ndarray) -> list[list[list[int]]]:
        """Examples of a global batch as [micro-step][rank] -> indices; an empty share is one filler."""
        if self.packs is not None:
            plan = self.packs.pack(step, self.world, self.accumulation)
            shares = [[[int(step[i]) for i in own] for own in micro] for micro in plan.packs]
            cheapest = int(step[self.packs.costs[step].argmin()])
        else:
            parts = self.world * self.accumulation
            dealt = (
                [step[i::parts] for i in range(parts)]
                if self.deal is None
                else even_chunks(step, self.deal, parts)
            )
            flat = [[int(i) for i in share] for share in dealt]
            shares = [flat[i : i + self.world] for i in range(0, parts, self.world)]
            cheapest = int(step[0])
        return [[own or [-1 - cheapest] for own in micro] for micro in shares]

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps_of(self.epoch):
            for micro in self.shares(step):
                yield micro[self.rank]
