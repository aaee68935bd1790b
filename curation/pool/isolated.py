"""One function over many items in worker processes; an item that ends its process costs that item only.

A process pool of the standard library is broken as a whole when a worker dies, and does not say of what.
"""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

_IDLE = -1
_TICK = 1.0
_STARTS = 3
"""So many workers in turn may die before their first item: then it is not the items."""


@dataclass(frozen=True)
class Lost:
    """In place of the result of an item that ended its worker."""

    why: str


class WorkersFail(RuntimeError):
    """Workers die whatever they work on."""


def run(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    workers: int,
    *,
    chunk: int = 64,
    seconds: float = 300.0,
) -> Iterator[tuple[int, list[Any]]]:
    """Yield (position of the first item, results of consecutive items) as they are finished.

    function: can be pickled; an error that it raises is raised here. `chunk` items go to a worker at once. An
    item gives Lost if its worker dies while on it, or has been on it for `seconds` and is killed. Raises
    WorkersFail if workers cannot start.
    """
    todo = deque((at, min(at + chunk, len(items))) for at in range(0, len(items), chunk))
    with ExitStack() as stack:
        busy = [_Worker(function, items, todo, stack) for _ in range(min(workers, len(todo)))]
        while busy:
            ready = wait([worker.end for worker in busy], timeout=_TICK)
            for worker in list(busy):
                if worker.end in ready:
                    yield from worker.receive()
                    if not worker.send():
                        busy.remove(worker)
                else:
                    worker.kill_if_over(seconds)


class _Worker:
    """The parent's view of one worker, which it replaces when it dies."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        todo: deque[tuple[int, int]],
        stack: ExitStack,
    ) -> None:
        self._function, self._items, self._todo = function, items, todo
        self._deaths, self._over = 0, False
        stack.callback(self._stop)
        self._start()
        self.send()

    def _start(self) -> None:
        # A process with threads (Arrow has some) cannot fork.
        context = multiprocessing.get_context("spawn")
        self._place = context.RawArray("d", [_IDLE, 0.0])
        self.end, theirs = context.Pipe()
        arguments = (theirs, self._function, self._place)
        self._process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def send(self) -> bool:
        """Give the worker its next items; False if there are none left."""
        if not self._todo:
            return False
        self._range = self._todo.popleft()
        self._place[0] = _IDLE
        try:
            self.end.send(self._items[slice(*self._range)])
        except ConnectionError:  # it died between two chunks; reading from it says so too
            pass
        return True

    def receive(self) -> Iterator[tuple[int, list[Any]]]:
        start, stop = self._range
        try:
            error, results = self.end.recv()
        except (EOFError, ConnectionError):
            yield from self._bury(start, stop)
            return
        if error is not None:
            raise error
        self._deaths = 0
        yield start, results

    def kill_if_over(self, seconds: float) -> None:
        at, since = self._place
        if at != _IDLE and time.monotonic() - since > seconds:
            self._over = True
            self._process.kill()

    def _bury(self, start: int, stop: int) -> Iterator[tuple[int, list[Any]]]:
        """Replace the dead worker. Its item is lost; the others of the chunk are done again."""
        self._process.join()
        why, at = self._why(), int(self._place[0])
        if at == _IDLE:
            self._deaths += 1
            if self._deaths >= _STARTS:
                raise WorkersFail(f"a worker process {why} before it did anything, {_STARTS} times")
            self._todo.appendleft((start, stop))
        else:
            lost = start + at
            self._todo.extendleft(part for part in ((lost + 1, stop), (start, lost)) if part[0] < part[1])
            yield lost, [Lost(why)]
        self._over = False
        self.end.close()
        self._start()

    def _why(self) -> str:
        if self._over:
            return "took too long"
        code = self._process.exitcode or 0
        if code >= 0:
            return f"ended with status {code}"
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (", for lack of memory perhaps" if name == "SIGKILL" else "")

    def _stop(self) -> None:
        process = getattr(self, "_process", None)
        if process is None or process.pid is None:  # stopped while it was being started
            return
        self.end.close()
        self._process.terminate()
        self._process.join()


def _serve(end: Connection, function: Callable[[Any], Any], place: Any) -> None:
    """A worker's life: chunks in, results out, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its workers
    while True:
        try:
            items = end.recv()
        except EOFError:
            return
        try:
            answer: Any = (None, [_one(function, item, at, place) for at, item in enumerate(items)])
        except Exception as error:  # whatever it is, the parent raises it
            answer = (error, None)
        place[0] = _IDLE  # the parent may read it late
        end.send(answer)


def _one(function: Callable[[Any], Any], item: Any, at: int, place: Any) -> Any:
    place[1] = time.monotonic()
    place[0] = at
    return function(item)
