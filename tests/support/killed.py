"""Runs of a recipe that are killed at named points, and the contents of their stores afterwards."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from curation import killpoints
from recipes.store import read_done

VARYING = {
    *("begun.json", "stage.json", "timings.json", "lineage.json", "experiment.json"),
    *("report.md", "report.html", "costs.md", "costs.csv", "costs.tex"),
}
"""Files with seconds, modification times, or the current commit."""
BESIDE = {".log", ".tmp", ".lock", ".seen", ".jsonl"}
"""Endings of logs and of the files beside artefacts."""


def run_silently(
    package: str, arguments: Sequence[str], log: Path | None = None, kill: str | None = None
) -> int:
    """Run `recipes.run` in this process with its output in `log`; returns the exit status.

    `kill` is a kill point, see curation/killpoints.py.
    """
    if kill is not None:
        os.environ[killpoints.VARIABLE] = kill
    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.stdout = sys.stderr = open(output, "w", closefd=False)
    from recipes.run import main

    return main(list(arguments), package=package)


def forked(
    package: str, arguments: Sequence[str], folder: Path, log: Path | None = None, kill: str | None = None
) -> int:
    """The same in a fork of this process, which spares the imports; the status is -9 after a kill."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 99
    try:
        os.chdir(folder)
        status = run_silently(package, arguments, log, kill)
    finally:
        os._exit(status)  # never back into pytest


def contents(root: Path) -> dict[str, str]:
    """Hash of every file below store/ and runs/ that must not depend on time; links as their targets.

    Of done.json, only the stage's hash and the names of its files count.
    """
    hashes = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            hashes[name] = os.readlink(path)
        elif path.is_file() and path.name not in VARYING and path.suffix not in BESIDE:
            content = path.read_bytes().replace(str(root).encode(), b"ROOT")
            content = content.replace(b"executor: pool", b"executor: inline")
            if path.name == "done.json":
                done = read_done(path.parent)
                content = json.dumps([done.hash, sorted(done.files)]).encode()
            hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


def finished(root: Path) -> set[str]:
    """kind/hash of the stages that are marked as done."""
    return {f"{p.parent.parent.name}/{p.parent.name}" for p in (root / "store").glob("*/*/done.json")}


def spread(points: Sequence[str], number: int) -> list[str]:
    """`number` of the points, evenly spread over the run, in order."""
    step = len(points) / number
    return [points[int(k * step)] for k in range(number)]


def killed(status: int) -> bool:
    """Whether an exit status is that of a process that SIGKILL ended."""
    return status == -signal.SIGKILL
