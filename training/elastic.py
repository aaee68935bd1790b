"""torchrun on one node of a training: it starts the ranks, watches them, and writes down how they ended.

python -m training.elastic JOB NODE [HOST PORT]      # by training.agent; HOST PORT: where several nodes meet
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from training import job as jobs
from training import rank
from training.job import Job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ranks of this node to their end; 1 when one has failed: the job folder has their codes."""
    parser = argparse.ArgumentParser(description="The ranks of one node, started by training.launch.")
    parser.add_argument("job", type=Path, help="folder with job.json")
    parser.add_argument("node", type=int)
    parser.add_argument("meeting", nargs="*", metavar="HOST PORT")
    args = parser.parse_args(argv)
    job = jobs.read(args.job)

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(torchrun_arguments(job, args.node, args.meeting)))
    except ChildFailedError as error:
        codes = {str(number): failure.exitcode for number, failure in error.failures.items()}
        job.end(args.node, codes)
        return 1
    return 0


def torchrun_arguments(job: Job, node: int, meeting: Sequence[str]) -> list[str]:
    """What torchrun is started with. Several nodes have fixed numbers, and node 0 holds the meeting point."""
    if job.nodes == 1:
        place = ["--standalone"]
    else:
        host, port = meeting
        place = [f"--nnodes={job.nodes}", f"--node-rank={node}", f"--master-addr={host}"]
        place += [f"--master-port={port}", f"--rdzv-id={job.id}"]
    return [*place, f"--nproc-per-node={job.processes}", "-m", rank.__name__, str(job.folder)]


if __name__ == "__main__":
    raise SystemExit(main())
