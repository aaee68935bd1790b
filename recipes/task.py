"""One stage as it is sent to whatever process runs it, and how it is run there: once, under the artefact's lock."""

import sys
import time
import traceback
from collections.abc import Iterator
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
        """How many units of work there will be."""

    def advance(self, k: int = 1) -> None:
        """`k` more units are done."""

    def say(self, text: str) -> None:
        """A derived value, shown to the user."""


@dataclass(frozen=True)
class Task:
    """Everything that a stage needs, without reference to other nodes.

    `parents` are the hashes of the inputs by name; `made` names those inputs that other stages made, whose content is
    verified before it is read.
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
    made: frozenset[str] = field(default_factory=frozenset)
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
    store.begin(task.out, keep=resumes and _same_inputs(task.out, roots))
    store.write_json(task.out / "begun.json", roots)
    started = time.perf_counter()
    try:
        function = task.stages.run(task.kind)
        summary = function(task.config, _fetched(task.inputs, progress), task.out, progress) or {}
    except Exception as error:  # the boundary to foreign code: named, with its traceback, and raised again
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
    """Root hash of every input that a stage made. Raises StoreError for one whose content is not what was written."""

    def root(path: Path, digest: str) -> str:
        if (state := store.check(path, digest)) != "done":
            raise StoreError(f"input {path} is {state}; run the same command again, it is made again first")
        return store.read_done(path).root

    found: dict[str, Any] = {}
    for key in sorted(task.made):
        paths, digests = task.inputs[key], task.parents[key]
        if isinstance(paths, list):
            found[key] = [root(path, digest) for path, digest in zip(paths, digests, strict=True)]
        else:
            found[key] = root(paths, digests)
    return found


def _same_inputs(out: Path, roots: dict[str, Any]) -> bool:
    """Whether half-finished work was begun on the inputs that are there now."""
    try:
        return store.read_object(out / "begun.json") == roots
    except store.Damaged:
        return False


def _device() -> str:
    """The accelerator that a stage could use, or `cpu`; a stage that never imported torch ran without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "cpu"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def _fetched(inputs: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Models on the Hub as directories, at the revision that the recipe names."""
    return dict(_local(inputs, progress))


def _local(inputs: dict[str, Any], progress: Progress) -> Iterator[tuple[str, Any]]:
    for key, value in inputs.items():
        if isinstance(value, HubModel):
            progress.say(f"{key}: {value.name} from the Hub")
            value = local_copy(value.name, value.revision)
        yield key, value
