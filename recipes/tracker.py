"""Weights & Biases for a run: seconds of the stages, steps of the trainings, comparison table, plots.

It never stops a run.

    tracker = Tracker.start("offline", project="winnow", name="mmssr_30pct", run_dir=Path("runs/mmssr_30pct"),
    config={...})
    tracker.stage("pool", seconds=2.1, cached=False)
    print(tracker.finish())

wandb runs in a process of its own (`recipes.wandb_worker`): a server that does not answer could otherwise
block the exit of this process for minutes or forever. Everything is written below `run_dir/wandb`. If wandb
is not installed, unreachable or fails later, a warning says so once, an online run is kept offline (for
`wandb sync`), and the run continues. Options and messages go through a pipe, which a thread of its own fills:
they may be long, a process that does not read them blocks nobody, and no other user of the machine sees them.
The user, password and query of every URL in them are masked.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from curation.teacher.address import masked

Mode = Literal["online", "offline", "disabled"]
INIT_SECONDS = 10.0
"""Time limit for an online server to answer, in seconds."""
FINISH_SECONDS = 60.0
"""Time limit at the end of a run for pending writes and uploads, in seconds."""


@dataclass(frozen=True)
class Status:
    """The mode of a tracked run, the mode that was requested, and what went wrong.

    `path` is the directory for `wandb sync`.
    """

    mode: Mode
    requested: Mode
    detail: str = ""
    path: Path | None = None

    @property
    def ok(self) -> bool:
        return self.mode == self.requested and not self.detail

    def __str__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        if self.ok:
            return f"wandb: {self.mode}{where}"
        return (
            f"wandb: {self.mode}"
            + (f" instead of {self.requested}" if self.mode != self.requested else "")
            + f"{where}: {self.detail}"
        )


def _say(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


@dataclass
class Tracker:
    """One wandb run; with mode `disabled`, all calls do nothing.

    Create it with `start`, end it with `finish`.
    """

    status: Status
    say: Callable[[str], None] = _say
    _options: dict[str, Any] = field(default_factory=dict)
    _sent: list[str] = field(default_factory=list)
    _worker: "_Worker | None" = None

    @classmethod
    def start(
        cls,
        mode: Mode,
        *,
        project: str,
        name: str,
        run_dir: Path,
        config: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = _say,
        seconds: float = INIT_SECONDS,
    ) -> "Tracker":
        """Begin a run; returns immediately. Problems show in `status` after `finish`."""
        tracker = cls(Status(mode, mode), say)
        if mode != "disabled":
            tracker._options = {
                "project": project,
                "name": name,
                "dir": str(Path(run_dir).resolve()),
                "config": dict(config or {}),
                "seconds": seconds,
            }
            tracker._start(mode)
        return tracker

    def _start(self, mode: Mode) -> None:
        """Start the process; if the machine does not let it start, the run goes on without."""
        try:
            self._worker = _Worker(mode, self._options)
        except OSError as error:
            self.status = Status("disabled", mode, f"the wandb process cannot be started ({error})")
            self.say(f"{self.status}. The run continues.")

    def stage(self, name: str, seconds: float, cached: bool = False) -> None:
        """Log one finished stage."""
        self._send({"kind": "stage", "name": name, "seconds": seconds, "cached": cached})

    def training(self, name: str, log: Path) -> None:
        """Log each step of a finished training from its `fit.log.jsonl`: loss, learning rate, meters."""
        self._send({"kind": "training", "name": name, "path": str(Path(log).resolve())})

    def comparison(self, comparison: Mapping[str, Any]) -> None:
        """Log comparison.json: a table with one row for each arm, and the main values as summary."""
        self._send({"kind": "comparison", "comparison": dict(comparison)})

    def pictures(self, paths: Sequence[Path]) -> None:
        """Log PNG files under their stems."""
        self._send({"kind": "pictures", "paths": [str(Path(path).resolve()) for path in paths]})

    def finish(self, seconds: float = FINISH_SECONDS) -> Status:
        """Close the run and return its status; uploads that take longer than `seconds` are aborted."""
        if self._worker is None:
            return self.status
        self.status = self._worker.finish(seconds)
        if (
            self.status.mode == "disabled"
            and self.status.requested == "online"
            and self._worker.may_retry_offline
        ):
            reason = self.status.detail
            kept = self._replayed(seconds)
            self.status = Status(
                kept.mode, "online", reason + (f"; then {kept.detail}" if kept.detail else ""), kept.path
            )
        if not self.status.ok:
            hint = f" Upload later with: wandb sync {self.status.path}" if self.status.path else ""
            self.say(f"{self.status}. The run continues.{hint}")
        self._worker = None
        return self.status

    def _replayed(self, seconds: float) -> Status:
        """The status of an offline run that is told everything again."""
        try:
            offline = _Worker("offline", self._options)
        except OSError as error:
            return Status("disabled", "offline", f"the wandb process cannot be started ({error})")
        for line in self._sent:
            offline.send(line)
        return offline.finish(seconds)

    def _send(self, message: dict[str, Any]) -> None:
        if self._worker is not None:
            self._sent.append(json.dumps(message))
            self._worker.send(self._sent[-1])


class _Worker:
    """The process that runs wandb. It reads messages and writes its status as JSON lines."""

    def __init__(self, mode: Mode, options: Mapping[str, Any]) -> None:
        self.status = Status("disabled", mode, "the wandb process exited silently")
        self.may_retry_offline = False
        command = [sys.executable, "-m", "recipes.wandb_worker", mode]
        self._log = log = Path(options["dir"]) / "wandb" / "worker.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=Path(__file__).parents[1],
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
        self.send(json.dumps(options))

    def _read(self, output: IO[str]) -> None:
        for line in output:
            report = json.loads(line)
            path = Path(report["path"]) if report["path"] else self.status.path
            self.status = Status(report["mode"], self.status.requested, masked(report["detail"]), path)
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
        self._lines.put(masked(line))

    def finish(self, seconds: float) -> Status:
        end = time.monotonic() + seconds
        self._lines.put(None)
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
            self.status = replace(self.status, detail=f"the wandb process failed, see {self._log}")
        return self.status

    def _children(self) -> list[Any]:
        import psutil

        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
