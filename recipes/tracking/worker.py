"""The process of one backend; started by `recipes.tracking.tracker`, not by hand.

Reads the options and then messages as JSON lines from stdin until that is closed; writes lines of {"mode",
"detail", "path", "retry"} to stdout. After an error it exits by os._exit, because wandb's exit handlers would
wait for a server that does not answer.
"""

import importlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.tracking import system
from recipes.tracking.contract import Artifact, Backend, Run, RunInfo
from recipes.tracking.ledger import Ledger
from recipes.tracking.private import without_secrets
from recipes.tracking.steps import Watched, numbers

LOOK_SECONDS = 1.0
"""How often step logs are looked at."""
SYSTEM_SECONDS = 10.0
"""How often the machine's use is logged, where the backend does not do that itself."""
SAMPLES = 20
"""Conversations of each subset that are logged where the recipe asks for it."""
TEXTS = {".md", ".html", ".json", ".csv", ".tex", ".svg", ".yaml"}
"""Endings of files of which a copy without secrets can be made."""
EXTRAS = {"wandb": "track", "tensorboard": "track", "trackio": "trackio"}


def main() -> None:
    """Run the backend argv[1] in the mode argv[2] until stdin is closed."""
    name, mode = sys.argv[1:3]
    options = json.loads(sys.stdin.readline())
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the reports
    folder = Path(options["folder"]) / name

    def report(mode: str, detail: str = "", path: Path | None = None, retry: bool = False) -> None:
        line = {"mode": mode, "detail": detail, "path": str(path) if path else None, "retry": retry}
        print(json.dumps(line), file=output, flush=True)

    try:
        module = importlib.import_module(f"recipes.tracking.backends.{name}")
        backend: Backend = module.Backend(mode, folder, options["seconds"])
    except ImportError as error:
        advice = f"; pip install 'winnow[{EXTRAS[name]}]'" if name in EXTRAS else ""
        report("disabled", f"{name} cannot be imported ({error}){advice}")
        return
    report(mode)
    kept = folder / f"logged-{mode if backend.remote else 'here'}.json"
    try:
        Desk(backend, Ledger(kept), folder, lambda: report(mode, path=folder)).serve(_lines())
    except backend.errors as error:
        report("disabled", f"{type(error).__name__}: {error}", retry=backend.remote)
        os._exit(1)


def _lines() -> "queue.SimpleQueue[str | None]":
    """The lines of stdin as they come; None at its end."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


@dataclass
class Desk:
    """Carries out the messages, and follows the trainings that it was told to watch.

    `folder`: for copies of files; `on_open`: called when the first run is opened.
    """

    backend: Backend
    ledger: Ledger
    folder: Path
    on_open: Callable[[], None]
    known: dict[str, RunInfo] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    watched: list[tuple[RunInfo, Watched]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def serve(self, lines: "queue.SimpleQueue[str | None]") -> None:
        """Until the lines end; then what the trainings have logged meanwhile, and all runs are closed."""
        looked, measured = -float("inf"), time.monotonic()
        while True:
            try:
                line = lines.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line:
                self.handle(json.loads(line))
            now = time.monotonic()
            if now - looked >= LOOK_SECONDS:
                self.look()
                looked = now
            if now - measured >= SYSTEM_SECONDS:
                self.measure(*self.runs)
                measured = now
        self.look()
        for run in list(self.runs):
            self._close(run)
        self.ledger.save()

    def handle(self, message: dict[str, Any]) -> None:
        """Carry out one message. Raises ValueError for one that is not known."""
        call = message.pop("call")
        if call in ("open", "watch"):
            info = RunInfo(**message["info"] | {"tags": tuple(message["info"]["tags"])})
            if call == "open":
                self.known[info.id] = info
            else:
                begun = self.ledger.begun(info.id)
                self.watched.append((info, Watched(Path(message["folder"]), message["before"], begun)))
            return
        run = message.pop("run")
        if call == "final":
            if self.ledger.complete(run) == message["state"]:
                self.told.add(run)
        elif run in self.told:
            return
        elif call == "log":
            self._log(run, **message)
        elif call == "complete":
            self._open(run)
            self._close(run, message["state"])
        elif call == "artifact":
            self._open(run).artifact(self._clean(**message["artifact"]))
        elif call == "figures":
            self._open(run).figures({name: Path(path) for name, path in message["paths"].items()})
        elif call == "samples":
            self._open(run).table(message["name"], *_samples(message["subset"], message["pool"]))
        elif call in ("table", "summary"):
            getattr(self._open(run), call)(**message)
        else:
            raise ValueError(f"unknown message {call!r}")

    def look(self) -> None:
        """Log the new steps of all trainings, and close the runs of those that are finished."""
        for entry in list(self.watched):
            info, watched = entry
            if watched.untouched():
                continue
            done = watched.done()  # before the logs are read: nothing is added to them after it
            for name, log in watched.found().items():
                own = replace(info, id=f"{info.id}-{name}", name=f"{info.name}/{name}") if name else info
                if self.ledger.complete(own.id):
                    continue
                self.known[own.id] = own
                for line in log.new():
                    self._log(own.id, numbers(line), line["step"])
                if done and self.ledger.step(own.id) >= 0:
                    self._finished(own.id, log.path.parent, watched.folder)
            if done:
                self.watched.remove(entry)
        self.ledger.save()

    def measure(self, *runs: str) -> None:
        """Log the machine's use in these runs, unless the backend does that itself."""
        if runs and not self.backend.measures:
            values = system.sample()
            for run in runs:
                self.runs[run].system(values, max(self.ledger.step(run), 0))

    def _log(self, run: str, values: Mapping[str, float], step: int) -> None:
        if step > self.ledger.step(run):
            self._open(run).log(values, step)
            self.ledger.note(run, step=step)

    def _open(self, run: str) -> Run:
        if run not in self.runs:
            self.runs[run] = self.backend.open(self.known[run])
            self.ledger.note(run)
            self.measure(run)
            self.on_open()
        return self.runs[run]

    def _close(self, run: str, state: str | None = None) -> None:
        if state:
            self.ledger.note(run, complete=state)
        self.runs.pop(run).finish(self.ledger.complete(run) is not None)

    def _finished(self, run: str, checkpoint: Path, stage: Path) -> None:
        """The rates of the whole training and a reference to what it made."""
        opened, done = self._open(run), json.loads((stage / "done.json").read_text())
        times = checkpoint / "fit.times.log"
        if times.is_file():
            meters = json.loads(times.read_text()).get("meters") or {}
            opened.summary({f"whole/{key}": value for key, value in meters.items() if value is not None})
        about = {"stage_hash": done["hash"], "sha256": done["root"]}
        opened.artifact(Artifact(run, "model", references={"checkpoint": checkpoint}, about=about))
        self._close(run, done["hash"])

    def _clean(self, files: dict[str, str], references: dict[str, str], **content: Any) -> Artifact:
        """The artifact with copies of its texts in which no secret is left; other files stay as they are."""
        places = {name: Path(path) for name, path in references.items()}
        kept = {name: self._copy(content["name"], name, Path(path)) for name, path in files.items()}
        return Artifact(**content, files=kept, references=places)

    def _copy(self, artifact: str, name: str, path: Path) -> Path:
        if path.suffix not in TEXTS:
            return path
        text = path.read_text(encoding="utf-8")
        if (clean := without_secrets(text)) == text:
            return path
        copy = self.folder / "files" / artifact / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(clean, encoding="utf-8")
        return copy


def _samples(subset: str, pool: str) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows): the first conversations of a subset, by rank."""
    from curation.pool.read import Pool
    from curation.subset import read_subset

    opened = Pool.open(Path(pool))
    rows = read_subset(Path(subset))["row"].to_pylist()[:SAMPLES]
    samples = [opened[row] for row in rows]
    texts = ["\n".join(f"{turn.question}\n{turn.answer}" for turn in sample.turns) for sample in samples]
    return ["id", "source", "images", "conversation"], [
        [sample.id, sample.source, len(sample.images), without_secrets(text)]
        for sample, text in zip(samples, texts, strict=True)
    ]


if __name__ == "__main__":
    main()
