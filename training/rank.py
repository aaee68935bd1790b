"""One rank of a distributed training: what torchrun starts in each process.

torchrun --nproc_per_node 2 -m training.rank JOB         # JOB is a directory written by training.launch
"""

import argparse
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Train with the other ranks of this torchrun; rank 0 writes progress and result into the job folder."""
    parser = argparse.ArgumentParser(description="One rank of a training that training.launch has started.")
    parser.add_argument("job", type=Path, help="directory with job.pickle")
    job = parser.parse_args(argv).job

    import torch

    from training.distributed import start_engine
    from training.fit import fit

    start_engine()
    with (job / "job.pickle").open("rb") as handle:
        work = pickle.load(handle)
    # Line buffered: the launcher follows the file while it grows.
    with (job / "progress.jsonl").open("a", buffering=1) as progress:

        def report(step: int, steps: int, message: str) -> None:
            progress.write(json.dumps([step, steps, message]) + "\n")

        result = fit(work["spec"], work["base"], work["examples"], Path(work["out"]), report)
    if int(os.environ["RANK"]) == 0:
        (job / "result.json").write_text(json.dumps(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
