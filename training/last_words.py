"""Why a distributed training failed, from what its ranks and agents left in the job folder.

When one rank ends, all others fail too: they lose the connection, or are terminated. The one that ended first
is what a user wants to see.
"""

import signal
import time
from pathlib import Path
from typing import Any

from training.job import EXITS, FAILED, RANKS, Job

LINES = 30
OTHER_AGENTS = 5.0
"""Seconds that the agents of other nodes are given to write down how their ranks ended."""
CONSEQUENCES = (signal.SIGTERM, signal.SIGABRT)
"""Signals that end ranks because another has failed: torchrun's, and NCCL's watchdog."""


def last_words(job: Job, node: int | None, status: int) -> str:
    """A message: which rank failed first, on which node, how, its last lines, and how the others ended."""
    end = time.monotonic() + (OTHER_AGENTS if job.nodes > 1 else 0)
    while len(job.records(EXITS)) < job.nodes and time.monotonic() < end:
        time.sleep(0.2)
    ends = _ends(job)
    if not ends:
        return _no_rank(job, node, status)
    first = min(ends, key=lambda rank: _order(rank, ends[rank]))
    log = job.log_of_rank(first)
    others = [f"  {_sentence(job, rank, ends[rank])}" for rank in sorted(ends) if rank != first]
    return "\n".join(
        [
            f"the training failed: {_sentence(job, first, ends[first])}",
            *(["then:", *others] if others else []),
            f"its last lines ({log}):",
            tail(log),
        ]
    )


def _ends(job: Job) -> dict[int, dict[str, Any]]:
    """Rank -> its error and time, if it raised one, and its exit code, if torchrun saw one."""
    ends: dict[int, dict[str, Any]] = {rank: dict(record) for rank, record in job.records(FAILED).items()}
    for codes in job.records(EXITS).values():
        for rank, code in codes.items():
            if rank.isdigit() and code:
                ends.setdefault(int(rank), {})["code"] = code
    return ends


def _order(rank: int, end: dict[str, Any]) -> tuple[int, float, int]:
    """Lowest for the rank that failed first. A killed one writes nothing down: the errors that others raise
    are what follows from it."""
    killed = end.get("code", 0) < 0 and -end["code"] not in CONSEQUENCES
    if killed and "error" not in end:
        return 0, 0.0, rank
    if "error" in end:
        return 1, end["time"], rank
    return 2, 0.0, rank


def _sentence(job: Job, rank: int, end: dict[str, Any]) -> str:
    record = job.records(RANKS).get(rank)
    where = f" (node {record['node']}, {record['host']}, process {record['process']})" if record else ""
    if "error" in end:
        return f"rank {rank}{where} raised {end['error']}"
    code = end["code"]
    if code < 0:
        return f"rank {rank}{where} was killed by {signal.Signals(-code).name}"
    return f"rank {rank}{where} ended with exit code {code}"


def _no_rank(job: Job, node: int | None, status: int) -> str:
    """No rank has failed by itself: a node is lost, or torchrun or srun could not run them."""
    lost = [codes["lost"] for codes in job.records(EXITS).values() if "lost" in codes]
    log = job.log_of_node(node)
    reason = "; ".join(lost) or f"{'srun' if node is None else 'torchrun'} ended with exit code {status}"
    return f"the training failed: {reason}\nthe last lines of {log}:\n{tail(log)}"


def tail(path: Path, lines: int = LINES) -> str:
    """The last lines of a log; nothing where it does not exist."""
    if not path.exists():
        return ""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 200 * lines))
        return "\n".join(handle.read().decode(errors="replace").splitlines()[-lines:])
