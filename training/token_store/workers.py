"""Row ranges of a source that are worked on in processes of their own, each with one renderer.

for result in each(tasks, own, make, workers=16, died="..."):      # in the order in which they are finished
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from curation.pool.sample import Sample
from training.parent_death import terminate_with_parent
from training.render import Encoded, Renderer
from training.token_store.layout import StoreError
from training.token_store.source import Example, Part

R = TypeVar("R")
Task = tuple[int, Part]
"""The number of a row range, and its examples."""
Work = Callable[[int, Part], R]
_ROWS_PER_START = 5_000
"""Starting a process costs about 9 CPU seconds of imports, a row of the 665K mix 2 ms."""
_BATCH = 256


def processes(rows: int) -> int:
    """As many as there are cores, but none that would not do more than it costs to start; 0 and 1: none."""
    return min(len(os.sched_getaffinity(0)), rows // _ROWS_PER_START)


def each(
    tasks: Iterable[Task], own: Work[R], make: Callable[[], Work[R]], *, workers: int, died: str
) -> Iterator[R]:
    """The result of each task, as they are finished: by `own` in this process, or in `workers` processes.

    `make` can be pickled, and is called once in each process. Only as many row ranges as can be worked on are
    in memory. Raises StoreError with the text `died` when a process dies, and what the work raises.
    """
    if workers <= 1:
        for task in tasks:
            yield own(*task)
        return
    tasks = iter(tasks)
    # A process with OpenMP threads cannot fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (make, os.getpid())) as pool:
        running: set[Future[R]] = set()
        try:
            while True:
                running |= {pool.submit(_work, *task) for task in islice(tasks, workers + 1 - len(running))}
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise StoreError(died) from error
        finally:
            for future in running:
                future.cancel()


def rendered(renderer: Renderer, part: Part) -> Iterator[tuple[Example, Any]]:
    """Each example of a row range with its Encoded, or the RenderError or ImageError instead."""
    examples = iter(part)
    while batch := list(islice(examples, _BATCH)):
        yield from zip(batch, _encode(renderer, batch), strict=True)


def _encode(renderer: Renderer, batch: Sequence[Example]) -> list[Any]:
    samples = [example for example in batch if isinstance(example, Sample)]
    encoded = iter(renderer.encode_many(samples))
    return [example if isinstance(example, Encoded) else next(encoded) for example in batch]


_worker: Work[Any] | None = None


def _start(make: Callable[[], Work[Any]], parent: int) -> None:
    global _worker
    terminate_with_parent(parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    import torch

    torch.set_num_threads(1)
    _worker = make()


def _work(number: int, part: Part) -> Any:
    assert _worker is not None
    return _worker(number, part)
