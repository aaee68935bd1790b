"""One stage as it is sent to whatever process runs it, and how it is run there: once, under the artefact's lock."""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recipes import store
from recipes.code import Stages
from recipes.errors import StageError, StoreError
from training.hub import HubModel, local_copy


class Progress(Protocol):
    """What a stage may tell while it runs."""

    def total(self, n: int) -> None:
        """How many units of work there will be."""

    def advance(self, k: int = 1) -> None:
        """`k` more units are done."""

    def say(self, text: str) -> None:
        """A derived value, for the user to see."""


@dataclass(frozen=True)
class Task:
    """Everything that a stage needs, without reference to other nodes."""

    kind: str
    name: str
    hash: str
    config: dict[str, Any]
    inputs: dict[str, Path | HubModel | list[Path]]
    parents: dict[str, Any]
    out: Path
    work: float
    stages: Stages
    provenance: dict[str, Any]
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a stage went: `state` is new, or cached if another process had done it meanwhile."""

    name: str
    state: str
    seconds: float
    summary: dict[str, Any]


def perform(task: Task, progress: Progress) -> Outcome:
    """Run the stage unless it is finished by now. Raises StageError with the original traceback."""
    try:
        with store.lock(task.out, lambda: progress.say("another run is at this stage; waiting for it")):
            state = store.check(task.out, task.hash)
            if state == "done" and not task.force:
                record = store.read_record(task.out)
                return Outcome(task.name, "cached", record["seconds"], record["summary"])
            return _run(task, state, progress)
    except StoreError as error:
        raise StageError(task.name, str(error), traceback.format_exc()) from error


def _run(task: Task, state: str, progress: Progress) -> Outcome:
    store.begin(task.out, keep=state == "unfinished" and not task.force and task.stages.resumes(task.kind))
    started = time.perf_counter()
    try:
        summary = (
            task.stages.run(task.kind)(task.config, _fetched(task.inputs, progress), task.out, progress) or {}
        )
    except Exception as error:  # the boundary to foreign code: named, with its traceback, and raised again
        text = f"{type(error).__name__}: {error}"
        advice = store.disk_problem(error, task.out) if isinstance(error, OSError) else None
        raise StageError(
            task.name, f"{text}; {advice}" if advice else text, traceback.format_exc()
        ) from error
    seconds = time.perf_counter() - started
    record = {
        "kind": task.kind,
        "name": task.name,
        "hash": task.hash,
        "config": task.config,
        "parents": task.parents,
        "seconds": round(seconds, 3),
        "work": task.work,
        "summary": summary,
        **task.provenance,
    }
    store.finish(task.out, task.hash, record)
    return Outcome(task.name, "new", seconds, summary)


def _fetched(inputs: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Models on the hub as directories, at the revision that the recipe names."""
    found = dict(inputs)
    for key, value in inputs.items():
        if isinstance(value, HubModel):
            progress.say(f"{key}: {value.name} from the hub")
            found[key] = local_copy(value.name, value.revision)
    return found
