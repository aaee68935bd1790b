"""Tells every backend of a recipe's run the same, without waiting for any; it never stops a run.

    tracker = Tracker.start(["wandb", "jsonl"], "offline", folder=Path("runs/mmssr_30pct/tracking"))
    tracker.open(experiment)                       # a RunInfo
    tracker.watch(training, Path("store/train/0123456789ab"))
    tracker.log(experiment.id, {"stages/finished": 4}, step=4)
    print(*tracker.finish(), sep="\\n")

If a backend is not installed, unreachable or fails later, a warning says so once, and the run continues. An
online run that fails is told everything again offline.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.tracking.contract import Artifact, Mode, RunInfo
from recipes.tracking.private import without_secrets
from recipes.tracking.process import Process, Status
from recipes.tracking.steps import mark

SERVER_SECONDS = 10.0
"""Time limit for an online server to answer, in seconds."""
FINISH_SECONDS = 60.0
"""Time limit at the end of a run for pending writes and uploads, in seconds."""


def _say(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


@dataclass
class Tracker:
    """The backends of one recipe's run; with mode `disabled` there are none and all calls do nothing.

    A run is opened in a backend when the first is told of it, and only if that was not told before. Create a
    tracker with `start`, end it with `finish`.
    """

    mode: Mode
    say: Callable[[str], None] = _say
    _options: dict[str, Any] = field(default_factory=dict)
    _processes: list[Process] = field(default_factory=list)
    _failed: list[Status] = field(default_factory=list)
    _sent: list[str] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        backends: Sequence[str],
        mode: Mode,
        *,
        folder: Path,
        say: Callable[[str], None] = _say,
        seconds: float = SERVER_SECONDS,
    ) -> "Tracker":
        """Begin; returns immediately. Everything is written below `folder`; problems show after `finish`."""
        tracker = cls(mode, say, {"folder": str(Path(folder).resolve()), "seconds": seconds})
        for backend in dict.fromkeys(backends) if mode != "disabled" else ():
            tracker._start(backend)
        return tracker

    @property
    def on(self) -> bool:
        """Whether a backend listens."""
        return bool(self._processes)

    def _start(self, backend: str) -> None:
        """Start the process; if the machine does not let it start, the run goes on without."""
        try:
            self._processes.append(Process(backend, self.mode, self._options))
        except OSError as error:
            detail = f"the {backend} process cannot be started ({error})"
            self._failed.append(Status(backend, "disabled", self.mode, detail))
            self.say(f"{self._failed[-1]}. The run continues.")

    def open(self, info: RunInfo) -> None:
        """Make a run known."""
        self._send("open", info=asdict(info))

    def watch(self, info: RunInfo, folder: Path) -> None:
        """Log the steps of the training in a stage's folder while it runs, unless it is finished already.

        Where the stage trains several times, in subfolders, each is a run of its own.
        """
        self._send("watch", info=asdict(info), folder=str(Path(folder).resolve()), before=mark(Path(folder)))

    def log(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step of the run with this id."""
        self._send("log", run=run, values=dict(values), step=step)

    def table(self, run: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of numbers, texts and None."""
        self._send("table", run=run, name=name, columns=list(columns), rows=[list(row) for row in rows])

    def figures(self, run: str, paths: Sequence[Path]) -> None:
        """PNG files, named by their stems."""
        named = {Path(path).stem: str(Path(path).resolve()) for path in paths}
        self._send("figures", run=run, paths=named)

    def summary(self, run: str, values: Mapping[str, Any]) -> None:
        """Numbers and words that stand for the whole run."""
        self._send("summary", run=run, values=dict(values))

    def artifact(self, run: str, artifact: Artifact) -> None:
        """Files, of which a copy without secrets is made, and references."""
        content = asdict(artifact)
        for key in ("files", "references"):
            content[key] = {name: str(Path(path).resolve()) for name, path in content[key].items()}
        self._send("artifact", run=run, artifact=content)

    def samples(self, run: str, name: str, subset: Path, pool: Path) -> None:
        """A table of the first conversations of a subset: the only call that passes text of data on."""
        folders = {"subset": str(Path(subset).resolve()), "pool": str(Path(pool).resolve())}
        self._send("samples", run=run, name=name, **folders)

    def final(self, run: str, state: str) -> None:
        """What follows describes the run in this state; it is dropped where the run was completed in it."""
        self._send("final", run=run, state=state)

    def complete(self, run: str, state: str) -> None:
        """Close a run: all is told of it in this state."""
        self._send("complete", run=run, state=state)

    def _send(self, call: str, **content: Any) -> None:
        if self._processes:
            self._sent.append(without_secrets(json.dumps({"call": call, **content})))
            for process in self._processes:
                process.send(self._sent[-1])

    def finish(self, seconds: float = FINISH_SECONDS) -> list[Status]:
        """Close all runs; returns the status of each backend. What takes over `seconds` is aborted."""
        end = time.monotonic() + seconds
        for process in self._processes:
            process.close()
        ended = [
            self._ended(process, max(end - time.monotonic(), 0.0), seconds) for process in self._processes
        ]
        for status in ended:
            if not status.ok:
                hint = _upload(status) if status.mode == "offline" and status.requested == "online" else ""
                self.say(f"{status}. The run continues.{hint}")
        self._processes = []
        return [*self._failed, *ended]

    def _ended(self, process: Process, left: float, seconds: float) -> Status:
        status = process.finish(left)
        if status.mode != "disabled" or status.requested != "online" or not process.may_retry_offline:
            return status
        try:
            offline = Process(status.backend, "offline", self._options)
        except OSError as error:
            return replace(status, detail=f"{status.detail}; then it cannot be started again ({error})")
        for line in self._sent:
            offline.send(line)
        kept = offline.finish(seconds)
        detail = status.detail + (f"; then {kept.detail}" if kept.detail else "")
        return replace(kept, requested="online", detail=detail)


def _upload(status: Status) -> str:
    if status.backend != "wandb" or status.path is None:
        return ""
    return f" Upload later with: wandb sync --append {status.path}/offline-run-*"
