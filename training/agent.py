"""One node's part in a distributed training: join the others, run torchrun here, and end when any node ends.

Each node has one agent. They see each other through the job folder only (training/job.py), so a failure on
one node ends the others within seconds, however long their ranks would wait for a lost one. A request to stop
is passed on to each rank itself: torchrun would end them after half a minute, and saving may take longer.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from training import elastic, parent_death, slurm
from training.interrupt import SAVE_SECONDS, SIGNALS, Interrupted, Signals
from training.job import EXITS, FAILED, GO, INTERRUPTED, RANKS, STOP, Job, Progress
from training.last_words import last_words

JOIN_SECONDS = 600.0
"""How long the nodes of a training wait for each other at its start."""
LOST_SECONDS = 180.0
"""A node whose agent shows no sign of life for this long is lost; file systems may show one a minute late."""
END_SECONDS = 3.0
"""How long torchrun is given to end its ranks when the training is stopped at once."""
OTHERS_SECONDS = 60.0
"""How long `srun` may take to end after an agent has failed."""
BEAT_SECONDS = 1.0
ROOT = Path(__file__).resolve().parent.parent


class LaunchError(RuntimeError):
    """The distributed training failed; the message says where, and ends with what was printed there."""


class StoppedEarly(Interrupted):
    """A signal stopped the training before a step could be saved; `errors`: what ranks raised on the way."""

    def __init__(self, number: int, out: Path, errors: str = "") -> None:
        super().__init__(number, 0, out)
        self.errors = errors

    def __str__(self) -> str:
        return (
            f"stopped by {signal.Signals(self.number).name}, and nothing new was saved for {self.checkpoint}"
            f"{self.errors and f' ({self.errors})'}; run the same command to resume"
        )


class Superseded(Exception):
    """The job folder now holds another start of the training."""


class Agent:
    """Watches the child process that runs ranks: torchrun on this node, or `srun` with an agent on each.

    `node` is None for the one who watches `srun`: he shows no sign of life and owns no ranks.
    """

    def __init__(self, job: Job, node: int | None, progress: Callable[[int, int, str], None] | None) -> None:
        self.job, self.node, self.on_progress = job, node, progress
        self.lines = Progress(job)
        self.told: set[int] = set()  # ranks that have got the signal to stop
        self.heard: dict[int, tuple[int, float]] = {}  # node -> last beat, and when it was first seen
        self.beats, self.last_beat = 0, -BEAT_SECONDS

    def run(self, command: list[str], environment: dict[str, str], signals: Signals) -> None:
        """Run the command to its end. Raises LaunchError, Interrupted and Superseded."""
        guard = [sys.executable, "-m", parent_death.__name__, str(os.getpid())]
        with self.job.log_of_node(self.node).open("ab") as output:
            # A session of its own: what the launcher's group is sent (Ctrl-C), the launcher passes on.
            child = subprocess.Popen(
                [*guard, *command],
                env=environment,
                cwd=self.job.cwd,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._watch(child, signals)
        finally:
            if child.poll() is None:
                self._end(child)
            if self.node is not None and self.job.read(f"{EXITS}/{self.node}.json") is None:
                self.job.end(self.node, {"torchrun": child.returncode})
        self._conclude(child.returncode)

    def _watch(self, child: subprocess.Popen[bytes], signals: Signals) -> None:
        """Until the child has ended: progress, signs of life, requests to stop, failures of other nodes."""
        deadline = float("inf")
        while child.poll() is None and time.monotonic() < deadline:
            self._report()
            if self.beat():
                number = self._asked_to_stop(signals)
                if number and self.node is not None:
                    deadline = min(deadline, time.monotonic() + SAVE_SECONDS)
                    self._pass_on(number, child)
                if self._others_have_failed():
                    # Ranks without the others only wait for them; `srun` ends by itself once its agents have.
                    deadline = min(deadline, time.monotonic() + (OTHERS_SECONDS if self.node is None else 0))
            time.sleep(0.1)
        self._report()

    def _asked_to_stop(self, signals: Signals) -> int:
        """The signal with which this or another node was asked to stop; 0 for none."""
        number = self.job.read(STOP) or 0
        if signals.received and not number:
            number = signals.received
            self.job.write(STOP, number)
        return number

    def _report(self) -> None:
        for line in self.lines.new():
            if self.on_progress:
                self.on_progress(*line)

    def beat(self) -> bool:
        """Show a sign of life once a second; True when one was due. Raises Superseded."""
        if time.monotonic() - self.last_beat < BEAT_SECONDS:
            return False
        self.last_beat = time.monotonic()
        if self.node is not None:
            self.beats += 1
            mine = {"host": socket.gethostname(), "beat": self.beats}
            try:
                self.job.write(f"{self.job.joined}/{self.node}.json", mine)
            except FileNotFoundError as error:
                raise Superseded(f"{self.job.folder} holds a later start of this training") from error
        return True

    def hears_node_0(self) -> bool:
        """Whether node 0 lives: its beat has changed since this agent first looked at it."""
        if self.node == 0:
            return True
        record = self.job.read(f"{self.job.joined}/0.json")
        first, _ = self.heard.setdefault(0, (record["beat"], time.monotonic()))
        return bool(record["beat"] != first)

    def _others_have_failed(self) -> bool:
        """Whether another node's ranks have failed, or its agent is lost (which is then written down).

        Node 0 listens to all nodes, and each of them to node 0.
        """
        exits = self.job.records(EXITS)
        if any(failed(codes) for node, codes in exits.items() if node != self.node):
            return True
        now = time.monotonic()
        for node in range(self.job.nodes) if not self.node else [0]:
            record = self.job.read(f"{self.job.joined}/{node}.json")
            if record is None:  # it has not joined yet: `_join` waits for it
                continue
            beat, since = self.heard.get(node, (-1, now))
            self.heard[node] = (record["beat"], since if beat == record["beat"] else now)
            silent = now - self.heard[node][1]
            if node != self.node and node not in exits and silent > LOST_SECONDS:
                lost = f"node {node} ({record['host']}) has shown no sign of life for {silent:.0f} s"
                self.job.end(node, {"lost": lost})
                return True
        return False

    def _pass_on(self, number: int, child: subprocess.Popen[bytes]) -> None:
        """Send the signal once to each rank of this node; torchrun itself is ended while it has none."""
        mine = {rank: r for rank, r in self.job.records(RANKS).items() if r["node"] == self.node}
        if not mine:
            child.terminate()
        for rank, record in mine.items():
            if rank not in self.told:
                self.told.add(rank)
                send(record["process"], number, self.job.folder)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """End the child and the ranks of this node now."""
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=END_SECONDS)
        if self.node is not None:
            for record in self.job.records(RANKS).values():
                if record["node"] == self.node:
                    send(record["process"], signal.SIGKILL, self.job.folder)
        child.kill()
        child.wait()

    def _conclude(self, status: int) -> None:
        """Nothing when the ranks have ended well; else the reason is raised."""
        if status == 0:
            return
        if number := self.job.read(STOP):
            raise self._stopped(number)
        raise LaunchError(last_words(self.job, self.node, status))

    def _stopped(self, number: int) -> Interrupted:
        if saved := self.job.read(INTERRUPTED):
            return Interrupted(saved["number"], saved["step"], Path(saved["checkpoint"]))
        errors = "; ".join(
            f"rank {rank} raised {record['error']}" for rank, record in self.job.records(FAILED).items()
        )
        return StoppedEarly(number, Path(self.job.out), errors)


def failed(codes: dict[str, Any]) -> bool:
    """Whether the exits of a node are a failure: ranks that have saved, as asked, end with 128 + a signal."""
    return any(code and code not in {128 + number for number in SIGNALS} for code in codes.values())


def send(process: int, number: int, folder: Path) -> None:
    """Send a signal to a rank, if this process still is one of the job in `folder`."""
    if is_rank(process, folder):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def is_rank(process: int, folder: Path) -> bool:
    """Whether a process of this machine runs a rank of the job in `folder`; False without /proc."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(folder) in words


# ------------------------------------------------------------------------------------------ several nodes


def attend(job: Job, node: int, progress: Callable[[int, int, str], None] | None = None) -> None:
    """Run the ranks of one node to their end, together with the agents of the others.

    Node 0 holds the meeting point. Raises LaunchError and Interrupted.
    """
    agent = Agent(job, node, progress)
    with Signals() as signals:
        meeting = [] if job.nodes == 1 else _join(agent, signals)
        command = [sys.executable, "-m", elastic.__name__, str(job.folder), str(node), *meeting]
        agent.run(command, environment(job, node), signals)


def environment(job: Job, node: int) -> dict[str, str]:
    """The environment of torchrun and its ranks."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A run killed while compiling leaves a lock that later runs would wait for: each has its own folder.
        "TORCH_EXTENSIONS_DIR": str(job.folder / "extensions" / str(node)),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _join(agent: Agent, signals: Signals) -> list[str]:
    """Wait until all nodes are there; returns host and port of the meeting point. Raises LaunchError."""
    job = agent.job
    mine = _meeting_point(job) if agent.node == 0 else None
    end = time.monotonic() + JOIN_SECONDS
    while True:
        agent.beat()
        joined = job.records(job.joined)
        if mine and len(joined) == job.nodes:
            job.write(GO, mine)
        if agent.node and not job.current():
            raise Superseded
        if (meeting := job.read(GO)) and agent.hears_node_0():
            return [str(part) for part in meeting]
        number = signals.received or job.read(STOP)
        if number or job.records(EXITS):
            job.end(agent.node, {"join": 1})
            if number:
                raise StoppedEarly(number, Path(job.out))
            raise LaunchError(f"{job.folder}: another node gave up before all had joined")
        if time.monotonic() > end:
            job.end(agent.node, {"join": 1})
            missing = ", ".join(str(n) for n in range(job.nodes) if n not in joined)
            if not missing:
                raise LaunchError(
                    f"node 0 ({joined[0]['host']}) has shown no sign of life for {JOIN_SECONDS:.0f} s: "
                    "start the training there again"
                )
            raise LaunchError(
                f"{len(joined)} of {job.nodes} nodes joined within {JOIN_SECONDS:.0f} s; missing: "
                f"{missing}. On each of the other nodes run `python -m training.launch --job {job.folder}`; "
                "the folder must be on a file system that all nodes share"
            )
        time.sleep(0.2)


def _meeting_point(job: Job) -> tuple[str, int]:
    """Host and port at which the nodes meet: the spec's, or this node and a free port. LaunchError: taken."""
    host, _, given = (job.spec.rendezvous or "").partition(":")
    host = host or slurm.head(os.environ) or socket.gethostname()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(given or 0)))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            job.end(0, {"join": 1})
            raise LaunchError(
                f"rendezvous {job.spec.rendezvous}: port {given} of {socket.gethostname()} is not free "
                f"({os.strerror(error.errno)}): choose another, or leave it out for a free one"
            ) from error
        return host, probe.getsockname()[1]


def claim(job: Job) -> int:
    """The number of a node that joins by hand: the lowest free one. LaunchError when all are there."""
    mine = job.folder / job.joined / f".{uuid.uuid4().hex}.tmp"
    mine.write_text(json.dumps({"host": socket.gethostname(), "beat": 0}))
    for node in range(1, job.nodes):
        with suppress(FileExistsError):
            os.link(
                mine, job.folder / job.joined / f"{node}.json"
            )  # fails where the name is taken, in one step
            mine.unlink()
            return node
    mine.unlink()
    raise LaunchError(f"{job.folder}: all {job.nodes} nodes have joined already")
