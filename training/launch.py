"""Start a training where it has to run: in this process, or in torchrun processes on one or several nodes.

    launch(FitSpec(deepspeed="zero2", processes=8), base, samples, out)
    python -m training.launch --job OUT.job    # on each further node, where no Slurm starts them
    python -m training.launch --jobs DIR       # the same for every training of a recipe, below DIR

Distributed trainings always get new processes, so that no engine or process group outlives one training.
On several nodes the launcher is node 0, and the folder beside `out` is how the nodes find each other
(training/job.py); inside a Slurm allocation the launcher starts all nodes itself, by `srun`.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import job as jobs
from training import slurm
from training.agent import Agent, LaunchError, Superseded, attend, claim, environment, is_rank
from training.interrupt import Interrupted, Signals
from training.job import EXITS, JOB, RANKS, RESULT, Job
from training.spec import FitSpec

if TYPE_CHECKING:
    from curation.pool.sample import Sample
    from training.render import Encoded

__all__ = ["LaunchError", "launch"]

EARLIER_SECONDS = 60.0
"""How long a start waits for the ranks of an earlier one to end: a killed launcher's may still save."""
RESULT_SECONDS = 60.0
"""How late a shared file system may show a file that another node has written."""


def launch(
    spec: FitSpec,
    base: str | Path,
    examples: "Sequence[Sample | Encoded]",
    out: Path,
    on_progress: Callable[[int, int, str], None] | None = None,
    *,
    keep_adapters: bool = False,
) -> dict[str, Any]:
    """Train as `training.fit.fit` does and return its result; with several processes, through torchrun.

    Then a list of examples is written into a token store beside `out` first, which all ranks map.

    Raises what `fit` raises in this process. With several processes it raises LaunchError, which says which
    rank failed and why, Interrupted after SIGTERM or SIGUSR1, ImportError without DeepSpeed, and ValueError
    for data that cannot be sent to other processes.
    """
    from training.adapters import check_can_keep

    if keep_adapters:
        check_can_keep(spec)
    if not spec.distributed():
        from training.fit import fit

        return fit(spec, base, examples, out, on_progress, keep_adapters=keep_adapters)
    if spec.deepspeed:
        _require_deepspeed()
        from training.distributed import read_config

        read_config(spec.deepspeed)  # fails here, before any process starts
    by_srun = _place(spec)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    _wait_for_earlier(jobs.folder_of(out))
    job = jobs.create(
        spec,
        base,
        examples,
        out,
        keep_adapters=keep_adapters,
        nodes=spec.nodes,
        processes=spec.processes or _devices() or (2 if spec.nodes == 1 else 1),
    )
    if by_srun:
        _by_srun(job, on_progress)
    else:
        attend(job, 0, on_progress)
    return _result(job)


def _require_deepspeed() -> None:
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        raise ImportError("DeepSpeed is not installed: pip install winnow[deepspeed]")


def _devices() -> int:
    import torch

    return torch.cuda.device_count()


def _place(spec: FitSpec) -> bool:
    """Whether `srun` starts the nodes. Raises LaunchError where the environment cannot hold the training."""
    if (tasks := slurm.tasks(os.environ)) > 1:
        raise LaunchError(
            f"this command runs in {tasks} tasks of `srun`, and each would start the whole training: run it "
            "once (in the batch script, without `srun`); it starts the other nodes itself"
        )
    if spec.nodes == 1 or spec.rendezvous or not slurm.inside(os.environ):
        return False
    if (there := slurm.nodes(os.environ)) < spec.nodes:
        raise LaunchError(f"the training asks for {spec.nodes} nodes, and the Slurm allocation has {there}")
    return True


def _wait_for_earlier(folder: Path) -> None:
    """Wait until no rank of an earlier start is left here: two must never write to one checkpoint."""
    ranks = [record["process"] for record in _ranks(folder)]
    end = time.monotonic() + EARLIER_SECONDS
    while alive := [process for process in ranks if is_rank(process, folder)]:
        if time.monotonic() > end:
            raise LaunchError(
                f"{folder}: an earlier start of this training still runs (processes {alive}): wait for it "
                "or end it"
            )
        time.sleep(0.2)


def _ranks(folder: Path) -> Iterator[dict[str, Any]]:
    for file in (folder / RANKS).glob("[0-9]*.json"):
        if record := jobs.read_json(file):
            yield record


def _by_srun(job: Job, on_progress: Callable[[int, int, str], None] | None) -> None:
    """Run all nodes as one step of the allocation that this process is in."""
    agents = [sys.executable, "-m", "training.launch", "--job", str(job.folder)]
    with Signals() as signals:
        command = [*slurm.srun(job.nodes), *agents]
        Agent(job, None, on_progress).run(command, slurm.for_steps(environment(job, 0)), signals)


def _result(job: Job) -> dict[str, Any]:
    """The result that rank 0 has written; all but the logs of the job is removed."""
    end = time.monotonic() + RESULT_SECONDS
    while (result := job.read(RESULT)) is None or len(job.records(EXITS)) < job.nodes:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    if result is None:
        raise LaunchError(f"{job.folder}: the ranks have ended well, but rank 0 has left no result")
    if len(job.records(EXITS)) == job.nodes:
        jobs.clean(job)
    return dict(result)


# ---------------------------------------------------------------------------------------- further nodes


def main(argv: Sequence[str] | None = None) -> int:
    """Take part in a training that another node has started, or in each that appears."""
    parser = argparse.ArgumentParser(
        prog="python -m training.launch",
        description="One further node of a distributed training: started on each node but the first.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--job", type=Path, help="job folder of one training (OUT.job, beside its checkpoint)")
    which.add_argument(
        "--jobs",
        type=Path,
        metavar="DIR",
        help="take part in every training whose job folder appears below DIR (three levels)",
    )
    parser.add_argument(
        "--node", type=int, help="number of this node; default: Slurm's, or the next free one"
    )
    parser.add_argument(
        "--wait", type=float, default=3600, metavar="SECONDS", help="for a training to appear [%(default)s]"
    )
    args = parser.parse_args(argv)
    folder = args.job or args.jobs
    try:
        while job := _appeared(folder, args.wait, several=args.job is None):
            try:
                if _take_part(job, args.node) and args.job:
                    return 0
            except LaunchError as error:
                print(f"error: {error}", file=sys.stderr)
                if args.job:
                    return 1
        print(f"error: {folder}: no training on several nodes appeared in {args.wait:.0f} s", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.status


def _take_part(job: Job, number: int | None) -> bool:
    """Run this node's ranks; False when the training was started anew meanwhile."""
    node = slurm.node(os.environ) if number is None else number
    node = claim(job) if node is None else node
    print(f"node {node} of {job.nodes}: {job.out}", flush=True)
    try:
        attend(job, node)
    except Superseded:
        return False
    return True


def _appeared(folder: Path, seconds: float, *, several: bool) -> Job | None:
    """A job that waits for nodes, in this folder or (`several`) below it; None when none appears in time."""
    end = time.monotonic() + seconds
    while True:
        for file in _job_files(folder) if several else [folder / JOB]:
            with suppress(FileNotFoundError):  # not yet there, or just finished
                job = jobs.read(file.parent)
                if not job.records(EXITS) and len(job.records(job.joined)) < job.nodes:
                    return job
        if time.monotonic() > end:
            return None
        time.sleep(1)


def _job_files(folder: Path) -> Iterator[Path]:
    for pattern in (f"*.job/{JOB}", f"*/*.job/{JOB}", f"*/*/*.job/{JOB}"):
        yield from folder.glob(pattern)


if __name__ == "__main__":
    raise SystemExit(main())
