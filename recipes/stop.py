"""Stopping a run by a signal: child processes end, and a message says what is kept.

A training takes SIGTERM and SIGUSR1 itself (training/interrupt.py), to save what it has reached.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from training import interrupt

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for a child process."""


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop. `kept` says how many stages are finished, if that is known."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.kept = number, ""

    @property
    def status(self) -> int:
        """128 + the signal's number, the convention of shells."""
        return 128 + self.number

    @property
    def grace(self) -> float:
        """Seconds that a stage has to end: those of a training that saves, where the signal asks for it.

        Stages that do not train end at once all the same.
        """
        return interrupt.SAVE_SECONDS if self.number in interrupt.SIGNALS else GRACE

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}{self.kept}; run the same command to resume"


def end_descendants(grace: float = GRACE) -> None:
    """Terminate all descendants of this process, and kill those that are left after `grace` seconds."""
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
    """Raises Stopped inside the block when one of SIGNALS arrives; further ones are ignored until its end.

    Does nothing outside the main thread, where Python cannot set signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the clean-up
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
