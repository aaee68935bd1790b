"""Run tasks in the order that their inputs allow: in this process, or in single-threaded worker processes.

Of the tasks that are ready, those of the earliest repetition go first, and of these the one at the head of
the longest remaining path. After a failure no new task starts; running tasks may finish (their results are
kept), then the error is raised.
"""

import contextlib
import heapq
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from recipes.errors import StageError
from recipes.stop import GRACE, Stopped
from recipes.task import Outcome, Task, perform

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Display(Protocol):
    """Receives what an executor reports about each stage."""

    def start(self, name: str) -> None: ...
    def total(self, name: str, n: int) -> None: ...
    def advance(self, name: str, k: int) -> None: ...
    def say(self, name: str, text: str) -> None: ...
    def finish(self, outcome: Outcome) -> None: ...
    def fail(self, name: str, waiting_for: Sequence[str]) -> None: ...


class Schedule:
    """Order of the tasks that are ready: earliest repetition first, then longest path to the end."""

    def __init__(
        self,
        tasks: dict[str, Task],
        parents: dict[str, set[str]],
        seconds: dict[str, float],
        repetitions: dict[str, int] | None = None,
    ) -> None:
        """`tasks`: parents first. `parents`: names of tasks in this schedule. `seconds`: expected durations.

        `repetitions`: the repetition that each task belongs to (default: 0).
        """
        self.tasks, self.repetitions = tasks, repetitions or {}
        self.waiting_for = {name: len(parents[name]) for name in tasks}
        self.children: dict[str, list[str]] = {name: [] for name in tasks}
        for name in tasks:
            for parent in parents[name]:
                self.children[parent].append(name)
        self.path: dict[str, float] = {}
        for name in reversed(list(tasks)):
            self.path[name] = seconds[name] + max((self.path[c] for c in self.children[name]), default=0.0)
        self.order = {name: at for at, name in enumerate(tasks)}
        self.ready: list[tuple[int, float, int, str]] = []
        for name in tasks:
            if not self.waiting_for[name]:
                self._offer(name)

    def next(self) -> Task | None:
        """The task to start now, which then counts as started; None if no task is ready."""
        return self.tasks[heapq.heappop(self.ready)[-1]] if self.ready else None

    def finished(self, name: str) -> None:
        """Releases the tasks that waited for this one."""
        for child in self.children[name]:
            self.waiting_for[child] -= 1
            if not self.waiting_for[child]:
                self._offer(child)

    def _offer(self, name: str) -> None:
        entry = (self.repetitions.get(name, 0), -self.path[name], self.order[name], name)
        heapq.heappush(self.ready, entry)


@dataclass
class StageProgress:
    """A stage's reports, passed directly to the display."""

    name: str
    display: Display

    def total(self, n: int) -> None:
        self.display.total(self.name, n)

    def advance(self, k: int = 1) -> None:
        self.display.advance(self.name, k)

    def say(self, text: str) -> None:
        self.display.say(self.name, text)


def run_inline(schedule: Schedule, display: Display) -> None:
    """Run one stage after the other in this process."""
    while task := schedule.next():
        display.start(task.name)
        try:
            outcome = perform(task, StageProgress(task.name, display))
        except StageError:
            display.fail(task.name, [])
            raise
        display.finish(outcome)
        schedule.finished(task.name)


def run_pool(schedule: Schedule, display: Display, workers: int) -> None:
    """Run up to `workers` stages concurrently, in single-threaded processes that are reused.

    With GPUs there are no more workers than GPUs, and each sees one of its own.
    """
    from evaluation.placement import visible_devices

    devices = list(dict.fromkeys(visible_devices(workers)))
    places = devices if devices != [None] else [None] * workers
    pool: list[_Worker] = []
    with contextlib.ExitStack() as stack:
        try:
            _work_off(schedule, display, places, pool, stack)
        except KeyboardInterrupt as stop:
            _terminate(pool, stop.grace if isinstance(stop, Stopped) else GRACE)
            raise


def _work_off(
    schedule: Schedule,
    display: Display,
    places: Sequence[str | None],
    pool: list["_Worker"],
    stack: contextlib.ExitStack,
) -> None:
    failure: StageError | None = None
    while True:
        while failure is None and (idle := _idle(pool, places, stack)) and (task := schedule.next()):
            display.start(task.name)
            idle().give(task)
        busy = [worker for worker in pool if worker.task]
        if not busy:
            break
        ready = wait([worker.connection for worker in busy])
        for worker in (w for w in busy if w.connection in ready):
            name = worker.current.name
            try:
                outcome = worker.receive(display)
            except StageError as error:
                failure = failure or error
                display.fail(name, [w.task.name for w in pool if w.task])
                continue
            if outcome:
                display.finish(outcome)
                schedule.finished(name)
    if failure:
        raise failure


def _terminate(pool: list["_Worker"], grace: float) -> None:
    """Send SIGTERM to all workers and their child processes, and SIGKILL after `grace` seconds."""
    for worker in pool:
        worker.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace
    for worker in pool:
        worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
    for worker in pool:
        worker.signal(signal.SIGKILL)


def _idle(
    pool: list["_Worker"], places: Sequence[str | None], stack: contextlib.ExitStack
) -> Callable[[], "_Worker"] | None:
    """A function that returns an idle worker, or starts one while a place (GPU, or None) is free."""
    if free := next((w for w in pool if w.alive and not w.task), None):
        return lambda: free

    def start() -> _Worker:
        pool.append(stack.enter_context(_Worker(places[len(pool)])))
        return pool[-1]

    return start if len(pool) < len(places) else None


class _Worker:
    """A spawned process that performs one task after the other, on the GPU `device` if there is one."""

    def __init__(self, device: str | None = None) -> None:
        # Not fork: it would copy a parent that may hold threads and locks.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Not a daemon: daemons must not start processes, which stages do (torchrun, data loaders).
        self.process = context.Process(target=_worker, args=(theirs,), daemon=False)
        # Set before the process starts: what it imports first may already look for GPUs.
        gpu = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        with _environment(ONE_THREAD | gpu):
            self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.alive = True

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()  # an idle worker exits when it reads the end of the pipe
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.signal(signal.SIGKILL)
            self.process.join()

    def signal(self, number: int) -> None:
        """Send a signal to the worker and to the processes that its stage has started."""
        pid = self.process.pid
        if pid is None:  # never started
            return
        with contextlib.suppress(ProcessLookupError):  # it may not lead its group yet, or be gone
            os.killpg(pid, number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    @property
    def current(self) -> Task:
        """The task that this worker performs. Raises RuntimeError if it is idle."""
        if self.task is None:
            raise RuntimeError("this worker is idle")
        return self.task

    def give(self, task: Task) -> None:
        self.task = task
        self.connection.send(task)

    def receive(self, display: Display) -> Outcome | None:
        """Handle one message; returns the outcome once the task is finished. Raises its StageError."""
        name, log = self.current.name, Path(f"{self.current.out}.log")
        try:
            message, *content = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.task, self.alive = None, False
            self.process.join()
            raise StageError(
                name, f"its process {_how_it_ended(self.process.exitcode)}", _last_lines(log)
            ) from None
        if message == "done":
            self.task = None
            return content[0]
        if message == "failed":
            self.task = None
            raise content[0]
        getattr(display, message)(name, *content)
        return None


def _last_lines(log: Path) -> str:
    text = log.read_text(errors="replace") if log.is_file() else ""
    return "\n".join([f"last lines of {log}:", *text.splitlines()[-20:]])


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        hint = "; was it out of memory?" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"
    return f"ended with exit status {code}"


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


# --------------------------------------------------------------------------- in the worker process


class PipeProgress:
    """A stage's reports, sent to the parent process; counts are sent at most every PAUSE seconds."""

    PAUSE = 0.2

    def __init__(self, connection: Connection):
        self.connection, self.count, self.sent, self.known = connection, 0, 0.0, -1

    def total(self, n: int) -> None:
        if n != self.known:
            self.connection.send(("total", n))
            self.known = n

    def advance(self, k: int = 1) -> None:
        self.count += k
        if time.monotonic() - self.sent >= self.PAUSE:
            self.flush()

    def say(self, text: str) -> None:
        self.connection.send(("say", text))

    def flush(self) -> None:
        self.connection.send(("advance", self.count))
        self.count, self.sent = 0, time.monotonic()


def _worker(connection: Connection) -> None:
    os.setpgrp()  # so that the processes of a stage (torchrun, data loaders) can be killed together with it
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        progress = PipeProgress(connection)
        _log_to(task)
        try:
            outcome = perform(task, progress)
        except StageError as error:
            connection.send(("failed", error))
        else:
            progress.flush()
            connection.send(("done", outcome))


def _die_with_parent() -> None:
    """Kill this process group when the parent ends; a killed parent cannot stop its workers itself."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _log_to(task: Task) -> None:
    """Redirect what libraries print to <artefact>.log, away from the progress display."""
    with contextlib.suppress(OSError):  # a full or read-only disk is reported when the stage itself writes
        task.out.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(f"{task.out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        _replace_output(log)


def _replace_output(log: int) -> None:
    # File descriptors, because compiled libraries and child processes do not use sys.stdout.
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(log, 1), os.dup2(log, 2)
    os.close(log)
