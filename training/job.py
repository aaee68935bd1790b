"""The folder through which the processes of one distributed training talk to each other.

    job.json          the work: settings, base, checkpoint, nodes and processes, and where the data is
    data.pickle       what opens the examples where they lie: in a token store, mostly
    tokens/           the token store of examples that were given as a list
    nodes/ID/0.json   a file for each node of this start: host, and a beat that changes while its agent lives
    go.json           all nodes have joined: where they meet
    ranks/0.json      a file for each rank: its node, host and process
    failed/0.json     a file for each rank that raised an error: the error
    exits/0.json      a file for each node whose ranks have ended: their exit codes
    progress.jsonl    [step, steps, message] of rank 0
    stop.json         the ranks are asked to save and end: the signal
    interrupted.json  they have: signal, step, and where it is saved
    result.json       what `training.fit.fit` returned in rank 0
    logs/             rank-0.log: all that a rank printed; node-0.log: all that torchrun printed

It lies beside the checkpoint, since every node must see it. A file is there in full or not at all.
"""

import json
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.listed import listed
from training.spec import FitSpec

JOB, DATA, TOKENS = "job.json", "data.pickle", "tokens"
NODES, RANKS, FAILED, EXITS, LOGS = "nodes", "ranks", "failed", "exits", "logs"
GO, STOP, INTERRUPTED = "go.json", "stop.json", "interrupted.json"
RESULT, PROGRESS = "result.json", "progress.jsonl"


class DataNotShared(ValueError):
    """The examples cannot be sent to other processes."""


@dataclass(frozen=True)
class Job:
    """One training for `nodes` x `processes` ranks. `id` differs at each start; `cwd`: of relative paths."""

    folder: Path
    id: str
    spec: FitSpec
    base: str
    out: str
    keep_adapters: bool
    nodes: int
    processes: int
    cwd: str

    def examples(self) -> Any:
        """The examples, read or opened. They are written by `create`: the file is trusted."""
        with (self.folder / DATA).open("rb") as handle:
            return pickle.load(handle)

    def log_of_rank(self, rank: int) -> Path:
        """The file with all that this rank prints."""
        return self.folder / LOGS / f"rank-{rank}.log"

    def log_of_node(self, node: int | None) -> Path:
        """The file with all that torchrun prints on this node, or `srun` for all (None)."""
        return self.folder / LOGS / ("srun.log" if node is None else f"node-{node}.log")

    @property
    def joined(self) -> str:
        """The folder of the nodes. Each start has its own: nodes may still wait in that of the last one."""
        return f"{NODES}/{self.id}"

    def read(self, name: str) -> Any:
        """A JSON file of the folder; None where it does not exist."""
        return read_json(self.folder / name)

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file of the folder."""
        write_json(self.folder / name, content)

    def current(self) -> bool:
        """Whether the folder still holds this start, not a later one of the same training."""
        return bool((self.read(JOB) or {}).get("id") == self.id)

    def end(self, node: int, codes: dict[str, Any]) -> None:
        """Write down how this node's ranks ended; for a later start, which they do not concern, nothing."""
        if self.current():
            self.write(f"{EXITS}/{node}.json", codes)

    def records(self, kind: str) -> dict[int, Any]:
        """The files of `joined`, `ranks`, `failed` or `exits` by their number."""
        found = {int(file.stem): read_json(file) for file in sorted((self.folder / kind).glob("[0-9]*.json"))}
        return {number: content for number, content in found.items() if content is not None}


def folder_of(out: Path) -> Path:
    """The job folder of the checkpoint `out`: beside it, on the same file system."""
    out = Path(os.path.abspath(out))
    return out.with_name(f"{out.name}.job")


def create(
    spec: FitSpec,
    base: str | Path,
    examples: Sequence[Any],
    out: Path,
    *,
    keep_adapters: bool,
    nodes: int,
    processes: int,
) -> Job:
    """Write the folder of a new job, in place of an earlier one's; job.json is written last.

    A list of examples is put into a token store, which all ranks map; that of an earlier start is kept if it
    is of the same examples. Raises DataNotShared for other examples that cannot be pickled, and RenderError
    for one that is too long while `too_long` is "error".
    """
    folder = folder_of(out)
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name != TOKENS:
            _remove(entry)
    if isinstance(examples, (list, tuple)):
        examples = listed(spec, base, examples, folder / TOKENS)
    start = uuid.uuid4().hex[:12]
    for kind in (f"{NODES}/{start}", RANKS, FAILED, EXITS, LOGS):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with (folder / DATA).open("wb") as handle:
        try:
            pickle.dump(examples, handle)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # what pickle raises, by object
            raise DataNotShared(
                f"the examples cannot be sent to other processes ({error}): give a list of samples, the "
                "examples of a token store, or data that opens its files again when it is unpickled"
            ) from error
    where = base if Path(base).is_absolute() else _absolute(base)
    work = {
        "id": start,
        "spec": spec.model_dump(mode="json"),
        "base": str(where),
        "out": os.path.abspath(out),
        "keep_adapters": keep_adapters,
        "nodes": nodes,
        "processes": processes,
        "cwd": os.getcwd(),
    }
    write_json(folder / JOB, work)
    return read(folder)


def _absolute(base: str | Path) -> str:
    """A path as seen from everywhere; the name of a published model stays as it is."""
    return os.path.abspath(base) if Path(base).exists() else str(base)


def read(folder: Path) -> Job:
    """The job of a folder. Raises FileNotFoundError where there is none."""
    work = json.loads((folder / JOB).read_text(encoding="utf-8"))
    return Job(folder=folder.absolute(), **work | {"spec": FitSpec(**work["spec"])})


def clean(job: Job) -> None:
    """Remove all but the logs of a job that has succeeded."""
    for entry in job.folder.iterdir():
        if entry.name != LOGS:
            _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write the file in full or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def line(step: int, steps: int, message: str) -> str:
    """A line of progress.jsonl."""
    return json.dumps([step, steps, message]) + "\n"


class Progress:
    """The lines that rank 0 appends to progress.jsonl, each read once."""

    def __init__(self, job: Job) -> None:
        self.path, self.seen = job.folder / PROGRESS, 0

    def new(self) -> Iterator[list[Any]]:
        """The complete lines since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as handle:
            handle.seek(self.seen)
            for line in handle:
                if not line.endswith(b"\n"):  # still being written
                    return
                self.seen += len(line)
                yield json.loads(line)
