"""Run requests concurrently with a bound, and return the results in the order of the requests."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results of `work(item)`, run by `workers` threads; `items` is read in the calling thread, a few ahead.

    An exception of `work` is raised here when the item's turn comes; work that has not started by then is
    cancelled.
    """
    if workers < 1:
        raise ValueError(f"concurrency must be at least 1, got {workers}")
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
