"""One rank of a distributed training: what torchrun starts in each process.

    torchrun --nproc_per_node 2 -m training.rank JOB         # JOB is a folder written by training.launch

All that the rank prints goes to JOB/logs/rank-N.log, also what libraries print below Python.
"""

import argparse
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from training import job as jobs
from training import parent_death
from training.interrupt import Interrupted
from training.job import FAILED, INTERRUPTED, PROGRESS, RANKS, RESULT, Job


def main(argv: Sequence[str] | None = None) -> None:
    """Train with the other ranks of this torchrun; rank 0 writes progress and result into the job folder."""
    parser = argparse.ArgumentParser(description="One rank of a training that training.launch has started.")
    parser.add_argument("job", type=Path, help="folder with job.json")
    job = jobs.read(parser.parse_args(argv).job)
    number = int(os.environ["RANK"])
    _register(job, number)
    parent_death.terminate_with_parent(os.getppid())
    os.chdir(job.cwd)
    # DeepSpeed calls functions that PyTorch deprecates, several times a step, and each call would be logged.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")

    from training.distributed import end_rank, start_engine
    from training.fit import fit

    start_engine(job.spec.deepspeed)
    # Line buffered: the launcher follows the file while it grows.
    with (job.folder / PROGRESS).open("a", buffering=1) as lines:

        def report(step: int, steps: int, message: str) -> None:
            lines.write(jobs.line(step, steps, message))

        try:
            result = fit(
                job.spec, job.base, job.examples(), Path(job.out), report, keep_adapters=job.keep_adapters
            )
        except Interrupted as stop:
            record = {"number": stop.number, "step": stop.step, "checkpoint": str(stop.checkpoint)}
            job.write(INTERRUPTED, record)
            end_rank(stop.status)
    if number == 0:
        job.write(RESULT, result)
    end_rank()


def _register(job: Job, number: int) -> None:
    """Say which process this rank is, send its output to its own file, and have its error written down."""
    with job.log_of_rank(number).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    node, host = int(os.environ["GROUP_RANK"]), socket.gethostname()
    job.write(f"{RANKS}/{number}.json", {"node": node, "host": host, "process": os.getpid()})

    def failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        words = "".join(traceback.format_exception_only(error)).strip()
        job.write(f"{FAILED}/{number}.json", {"error": words, "time": time.time()})
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = failed


if __name__ == "__main__":
    main()
