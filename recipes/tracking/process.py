"""A backend's own process: a server that does not answer must not block the end of a recipe's run.

Options and messages go through a pipe, which a thread fills: they may be long, a process that does not read
them blocks nobody, and no other user of the machine sees them.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from recipes.tracking.contract import Mode
from recipes.tracking.private import without_secrets


@dataclass(frozen=True)
class Status:
    """The mode of a backend, the mode that was requested, and what went wrong.

    `path`: where its files are; None where nothing new had to be logged.
    """

    backend: str
    mode: Mode
    requested: Mode
    detail: str = ""
    path: Path | None = None

    @property
    def ok(self) -> bool:
        return self.mode == self.requested and not self.detail

    def __str__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        instead = f" instead of {self.requested}" if self.mode != self.requested else ""
        return f"{self.backend}: {self.mode}{instead}{where}{f': {self.detail}' if self.detail else ''}"


class Process:
    """One backend's process. It reads messages and writes its status as JSON lines."""

    def __init__(self, backend: str, mode: Mode, options: Mapping[str, Any]) -> None:
        """Raises OSError if it cannot start, or has no place to write."""
        self.status = Status(backend, "disabled", mode, f"the {backend} process exited silently")
        self.may_retry_offline = False
        self._log = Path(options["folder"]) / backend / "worker.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "recipes.tracking.worker", backend, mode],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=Path(__file__).parents[2],
                start_new_session=True,  # Ctrl-C in the terminal is for the run, which ends this process
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # both are pipes
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(stdout,), daemon=True)
        self._writer = threading.Thread(target=self._write, args=(stdin,), daemon=True)
        self._reader.start()
        self._writer.start()
        # Not as an argument: these are limited in length and visible to every user of the machine.
        self.send(without_secrets(json.dumps(options)))

    def _read(self, output: IO[str]) -> None:
        for line in output:
            report = json.loads(line)
            path = Path(report["path"]) if report["path"] else self.status.path
            detail = without_secrets(report["detail"])
            self.status = replace(self.status, mode=report["mode"], detail=detail, path=path)
            self.may_retry_offline = report["retry"]

    def _write(self, worker: IO[str]) -> None:
        """Pass the lines on, until there are no more; the worker ends when its input does."""
        try:
            with worker:
                while (line := self._lines.get()) is not None:
                    worker.write(line + "\n")
                    worker.flush()
        except BrokenPipeError:  # the worker has ended; its last report says why
            pass

    def send(self, line: str) -> None:
        """Pass a message on, without waiting."""
        self._lines.put(line)

    def close(self) -> None:
        """Say that there are no more messages, without waiting."""
        self._lines.put(None)

    def finish(self, seconds: float) -> Status:
        """The status once the process has ended; after `seconds` it is killed."""
        end = time.monotonic() + seconds
        self.close()
        self._writer.join(seconds)  # until the worker has read everything
        try:
            self._process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            for child in self._children():  # wandb's background process does not end with its parent
                child.kill()
            self._process.kill()
            self._process.wait()
            return replace(self.status, detail=f"not finished within {seconds:.0f} s")
        self._reader.join(5)
        if self._process.returncode and not self.status.detail:
            detail = f"the {self.status.backend} process failed, see {self._log}"
            mode: Mode = "disabled" if self.status.mode == "online" else self.status.mode
            self.status, self.may_retry_offline = replace(self.status, mode=mode, detail=detail), True
        return self.status

    def _children(self) -> list[Any]:
        import psutil

        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
