"""One stage in a form that any process can run, and how it is run: once, holding the lock of its artefact."""

import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from curation import killpoints
from recipes import store
from recipes.code import Stages
from recipes.errors import StageError, StoreError
from training.hub import HubModel, local_copy


class Progress(Protocol):
    """What a stage reports while it runs."""

    def total(self, n: int) -> None:
        """Set the number of units of work."""

    def advance(self, k: int = 1) -> None:
        """Report that `k` more units are done."""

    def say(self, text: str) -> None:
        """Show a derived value to the user."""


@dataclass(frozen=True)
class Task:
    """Everything that a stage needs to run, without references to other nodes.

    `parents` are the hashes of the inputs by name; `artefacts` names the inputs that are artefacts of other
    stages, whose content is verified before it is read.
    """

    kind: str
    family: str
    name: str
    hash: str
    config: dict[str, Any]
    inputs: dict[str, Path | HubModel | list[Path]]
    parents: dict[str, Any]
    out: Path
    work: float
    stages: Stages
    provenance: dict[str, Any]
    artefacts: frozenset[str] = field(default_factory=frozenset)
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a stage; `state` is `new`, or `cached` if it was done before or by another process."""

    name: str
    state: str
    seconds: float
    summary: dict[str, Any]


def perform(task: Task, progress: Progress) -> Outcome:
    """Run the stage unless it is already finished. Raises StageError with the original traceback."""
    try:
        waiting = "another process is running this stage; waiting for it"
        with store.lock(task.out, lambda: progress.say(waiting)):
            killpoints.enter(task.name)
            roots = _verified_roots(task)
            state = store.check(task.out, task.hash)
            if state == "done" and not task.force and store.read_record(task.out).get("roots") == roots:
                record = store.read_record(task.out)
                return Outcome(task.name, "cached", record["seconds"], record["summary"])
            return _run(task, state, roots, progress)
    except (StoreError, store.Damaged) as error:
        raise StageError(task.name, str(error), traceback.format_exc()) from error


def _run(task: Task, state: str, roots: dict[str, Any], progress: Progress) -> Outcome:
    resumes = state == "unfinished" and not task.force and task.stages.resumes(task.kind)
    store.begin(task.out, keep=resumes and keeps(task.out, roots))
    store.write_json(task.out / "begun.json", roots)
    started = time.perf_counter()
    try:
        function = task.stages.run(task.kind)
        summary = function(task.config, _fetched(task.inputs, progress), task.out, progress) or {}
    except Exception as error:  # any error of a stage's code becomes a StageError with its name and traceback
        text = f"{type(error).__name__}: {error}"
        advice = store.disk_problem(error, task.out) if isinstance(error, OSError) else None
        message = f"{text}; {advice}" if advice else text
        raise StageError(task.name, message, traceback.format_exc()) from error
    seconds = time.perf_counter() - started
    record = {
        "kind": task.kind,
        "family": task.family,
        "name": task.name,
        "hash": task.hash,
        "config": task.config,
        "parents": task.parents,
        "roots": roots,
        "seconds": round(seconds, 3),
        "work": task.work,
        "summary": summary,
        "device": _device(),
        **task.provenance,
    }
    store.finish(task.out, task.hash, record)
    return Outcome(task.name, "new", seconds, summary)


def _verified_roots(task: Task) -> dict[str, Any]:
    """Root hash of every input that is an artefact. Raises StoreError for one that is missing or damaged."""

    def root(path: Any, digest: str) -> str:
        if (state := store.check(path, digest)) != "done":
            raise StoreError(f"input {path} is {state}; run the same command again to rebuild it first")
        return store.read_done(path).root

    roots: dict[str, Any] = {}
    for key in sorted(task.artefacts):
        paths, digests = task.inputs[key], task.parents[key]
        if isinstance(paths, list):
            roots[key] = [root(path, digest) for path, digest in zip(paths, digests, strict=True)]
        else:
            roots[key] = root(paths, digests)
    return roots


def keeps(out: Path, roots: dict[str, Any]) -> bool:
    """Whether what an unfinished stage left is kept, for the stage to go on with.

    With other inputs it is not, unless it holds a saved state of a training: that is never deleted, and the
    training itself goes on with it or says what differs (training/checkpoints.py).
    """
    return _same_inputs(out, roots) or any(out.rglob("checkpoints/checkpoint-*/COMPLETE"))


def _same_inputs(out: Path, roots: dict[str, Any]) -> bool:
    """Whether an unfinished artefact was begun with inputs of the same content as now."""
    try:
        return store.read_object(out / "begun.json") == roots
    except store.Damaged:
        return False


def _device() -> str:
    """The accelerators that a stage could use, or `cpu`; without torch imported, it cannot have used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cpu"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def _fetched(inputs: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The inputs, with models on the Hub replaced by local copies of the revision that is asked for."""
    local = dict(inputs)
    for key, value in inputs.items():
        if isinstance(value, HubModel):
            progress.say(f"{key}: {value.name} from the Hub")
            local[key] = local_copy(value.name, value.revision)
    return local
