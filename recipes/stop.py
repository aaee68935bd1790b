"""Stopping a run on SIGINT, SIGTERM or SIGHUP: children end within seconds, and what is kept is said."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 2.0
"""Seconds that children are given to end by themselves before they are killed."""


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop. `kept` says what is finished, as far as that is known."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.kept = number, ""

    @property
    def status(self) -> int:
        """The exit status by which shells know a process that a signal ended."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}{self.kept}; the same command goes on from here"


def end_descendants(grace: float = GRACE) -> None:
    """End every process that this one has started, directly or not: asked first, killed after `grace` seconds."""
    import psutil

    started = psutil.Process().children(recursive=True)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(started, timeout=grace)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first of SIGNALS raises Stopped in the main thread; further ones are ignored until the block is left.

    Elsewhere than in the main thread, where Python cannot set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # cleaning up is not to be interrupted
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
