"""A bounded number of requests at a time, results in the order of what was asked."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`work` of each item, `workers` at a time in threads; `items` is read in the calling thread, a few ahead.

    What `work` raises is raised here when its turn comes; what has not begun by then is not begun at all.
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
