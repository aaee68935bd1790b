"""Start a training where it has to run: in this process, or under DeepSpeed in torchrun processes of its own.

    launch(FitSpec(deepspeed="zero2"), base, samples, out)

DeepSpeed always gets new processes, so that no engine or process group outlives one training.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from curation.pool.sample import Sample
from training import parent_death, rank
from training.adapters import check_can_keep
from training.distributed import read_config
from training.fit import fit
from training.render import Encoded
from training.spec import FitSpec
from training.trainer import Progress

END_SECONDS = 3.0
"""How long torchrun is given to end its ranks when the training is stopped."""
ROOT = Path(__file__).resolve().parent.parent


class LaunchError(RuntimeError):
    """The distributed training failed; the message ends with the last lines that it printed."""


def launch(
    spec: FitSpec,
    base: str | Path,
    examples: Sequence[Sample | Encoded],
    out: Path,
    on_progress: Progress | None = None,
    *,
    keep_adapters: bool = False,
) -> dict[str, Any]:
    """Train as `training.fit.fit` does and return its result; a DeepSpeed spec runs in torchrun processes.

    Raises what `fit` raises. Under DeepSpeed raises LaunchError when a process fails, ImportError without
    DeepSpeed, ValueError for lazy data or `keep_adapters`.
    """
    if not spec.deepspeed:
        return fit(spec, base, examples, out, on_progress, keep_adapters=keep_adapters)
    if keep_adapters:
        check_can_keep(spec)
    _require_deepspeed()
    read_config(spec.deepspeed)  # fails here, before any process starts
    if not isinstance(examples, (list, tuple)):
        raise ValueError("DeepSpeed needs a list of examples: lazy data cannot be sent to other processes")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="winnow-fit-") as folder:
        job = Path(folder)
        with (job / "job.pickle").open("wb") as handle:
            pickle.dump({"spec": spec, "base": str(base), "examples": examples, "out": str(out)}, handle)
        _run(job, spec.processes or torch.cuda.device_count() or 2, on_progress)
        return json.loads((job / "result.json").read_text())


def _require_deepspeed() -> None:
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        raise ImportError("DeepSpeed is not installed: pip install winnow[deepspeed]")


def _run(job: Path, processes: int, on_progress: Progress | None) -> None:
    """Run the ranks of `job` to their end; LaunchError when one fails."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    guard = [sys.executable, "-m", parent_death.__name__, str(os.getpid())]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A run killed while compiling leaves a lock that later runs would wait for: each has its own folder.
        "TORCH_EXTENSIONS_DIR": str(job / "extensions"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    with (job / "output.txt").open("wb") as output:
        child = subprocess.Popen(
            [*guard, sys.executable, "-m", *torchrun, "-m", rank.__name__, str(job)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _follow(child, job / "progress.jsonl", on_progress)
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(timeout=END_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()  # its ranks end with it (training/parent_death.py)
                    child.wait()
    if child.returncode != 0:
        printed = _last_lines((job / "output.txt").read_text(errors="replace"))
        raise LaunchError(f"the DeepSpeed training failed with exit code {child.returncode}:\n{printed}")


def _last_lines(output: str, lines: int = 30) -> str:
    """The last lines that the ranks printed before torchrun's own report on which rank failed."""
    printed = output.splitlines()
    end = next((i for i, line in enumerate(printed) if "torch/distributed/elastic" in line), len(printed))
    return "\n".join(printed[max(0, end - lines) : end])


def _follow(child: subprocess.Popen[bytes], path: Path, on_progress: Progress | None) -> None:
    """Pass on the progress lines that rank 0 appends to `path` until the child has ended."""
    seen = 0
    while child.poll() is None or (path.exists() and seen < path.stat().st_size):
        if path.exists():
            with path.open() as handle:
                handle.seek(seen)
                for line in iter(handle.readline, ""):
                    if not line.endswith("\n"):  # still being written
                        break
                    seen += len(line.encode())
                    if on_progress:
                        on_progress(*json.loads(line))
        time.sleep(0.1)
