"""Signals that ask a training to save and stop: the step ends, a checkpoint is saved, the training stops.

    with Signals() as signals:      # SIGTERM (schedulers, launchers), SIGUSR1 (Slurm's --signal=USR1@300)
        ...                         # signals.received after each step
    raise Interrupted(signals.received, step, checkpoint)

SIGINT and SIGHUP keep their meaning: a Ctrl-C stops at once and loses what came after the last checkpoint.
"""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAVE_SECONDS = 900.0
"""How long a training that is asked to stop may take to end its step and save, for all who wait for it."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the training, which is saved in `checkpoint`; a process should exit with `status`.

    A KeyboardInterrupt, so that it is never taken for an error of the training.
    """

    def __init__(self, number: int, step: int, checkpoint: Path) -> None:
        super().__init__(number, step, checkpoint)
        self.number, self.step, self.checkpoint = number, step, checkpoint

    @property
    def status(self) -> int:
        """128 + the signal's number, the convention of shells."""
        return 128 + self.number

    def __str__(self) -> str:
        return (
            f"stopped by {signal.Signals(self.number).name} after step {self.step}, which is saved in "
            f"{self.checkpoint}; run the same command to resume"
        )


class Signals:
    """While the block runs, SIGNALS are noted in `received` (0: none) instead of ending the process.

    If one was received and the block nevertheless comes to its end, it is raised again after it. Does nothing
    outside the main thread, where Python cannot set signal handlers.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python, which cannot be put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        if self.received and error is None:
            signal.raise_signal(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
