"""Batches of a training: read, decoded and assembled in this process or in workers, one step ahead of it.

A batch carries under ABOUT what the main process must know of it and the model must not see.
"""

import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from training.collate import Collator
from training.interrupt import SIGNALS
from training.meters import Counts, Meters, count
from training.plan import PlannedBatches, check
from training.render import Encoded

ABOUT = "about"
MOST_WORKERS = 8
"""Workers of a rank by default, where there are cores for them."""


LINGER_SECONDS = 600
"""How long a worker lives on after a signal: the training may still finish its step and save."""


class WorkerDied(RuntimeError):
    """A loader worker has ended before the training has."""


@dataclass(frozen=True)
class Late:
    """An example with an image that could not be decoded when its turn came; `row` among the examples."""

    row: int
    name: str
    detail: str


@dataclass(frozen=True)
class About:
    """What the main process must know of a batch: `rows` of its examples (fillers left out), `counts` without
    FLOPs, and the examples that turned out to be broken."""

    rows: tuple[int, ...]
    counts: Counts
    late: tuple[Late, ...]


class Examples(Dataset):
    """(index, example) by index; index -1 - i is example i without loss. `lazy` data is checked when read."""

    def __init__(self, examples: Sequence[Encoded], lazy: bool, max_length: int | None) -> None:
        self.examples, self.lazy, self.max_length = examples, lazy, max_length

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, Encoded]:
        if index < 0:
            return index, self.examples[-1 - index].muted()
        example = self.examples[index]
        if self.lazy:
            check(example, self.max_length)
        return index, example


class Assembler:
    """Makes a batch of what `Examples` gives, with ABOUT."""

    def __init__(self, collator: Collator, image_id: int) -> None:
        self.collator, self.image_id = collator, image_id

    def __call__(self, rows: Sequence[tuple[int, Encoded]]) -> dict[str, Any]:
        """The batch of these rows, in their order."""
        self.collator.broken.clear()
        batch = self.collator([example for _, example in rows])
        real = tuple(row for row, _ in rows if row >= 0)
        late = tuple(
            Late(max(row, -1 - row), example.name, str(self.collator.broken[example.name]))
            for row, example in rows
            if example.name in self.collator.broken
        )
        counts = count(batch, len(real), self.image_id, self.collator.pad_id)
        return {**batch, ABOUT: About(real, counts, late)}


def batches_of(
    examples: Examples, plan: PlannedBatches, assembler: Assembler, workers: int
) -> DataLoader[dict[str, Any]]:
    """The planned batches, in their order whatever the number of workers; pinned where there is a GPU.

    A step takes `plan.accumulation` batches at once: while it runs, the workers prepare as many again.
    """
    options: dict[str, Any] = {}
    if workers:
        ahead = max(2, math.ceil(plan.accumulation / workers))
        options = {"persistent_workers": True, "prefetch_factor": ahead, "worker_init_fn": _start_worker}
    return DataLoader(
        examples,
        batch_sampler=plan,
        collate_fn=assembler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: workers or not, the training's random numbers are the same
        **options,
    )


def default_workers() -> int:
    """Workers of each rank: none without a GPU, where decoding would compete with the training itself."""
    if not torch.cuda.is_available():
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) // ranks)


def _start_worker(number: int) -> None:
    # A scheduler signals all processes of a job: the training then saves, and a worker that died meanwhile
    # would be taken for a failure. The training ends its workers itself; the alarm is for one that is stuck.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for each in SIGNALS:
        signal.signal(each, lambda *_: signal.alarm(LINGER_SECONDS))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def end_workers(batches: Iterator[Any]) -> None:
    """End the workers of a loader's iterator, which otherwise live as long as the training's objects."""
    # There is no public way to end persistent workers.
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


class Waiting(Iterator[Any]):
    """The batches of a loader; the time until each is there counts as waiting."""

    def __init__(self, batches: Iterator[Any], meters: Meters) -> None:
        self.batches, self.meters = batches, meters

    def __next__(self) -> Any:
        with self.meters.waiting():
            try:
                return next(self.batches)
            except (ConnectionError, EOFError) as error:  # it died while it was sending a batch
                raise _died(f"it exited unexpectedly while sending a batch, {error!r}") from error


@contextmanager
def workers_explained() -> Iterator[None]:
    """A dead worker inside the block is a WorkerDied, which says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise _died(str(error)) from error


def _died(detail: str) -> WorkerDied:
    return WorkerDied(
        f"a loader worker has died ({detail}): for lack of memory or of shared memory (/dev/shm) perhaps; "
        "lower `workers` or `cache_mb`, then run the same command again to resume from the last state"
    )
