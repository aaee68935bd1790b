"""DeepSpeed trainings: always a torchrun of its own, so that no engine or process group outlives one training.

launch(FitSpec(deepspeed="zero2"), base, samples, out)     # what fit() does for such a spec
torchrun --nproc_per_node 2 -m training.launch JOB         # what runs then; JOB is a folder made by launch()
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from training.spec import FitSpec

CONFIGS = Path(__file__).parent / "deepspeed"
ROOT = Path(__file__).resolve().parent.parent


class LaunchError(RuntimeError):
    """The distributed training failed; the message ends with the last lines that it printed."""


def read_config(name: str) -> dict[str, Any]:
    """A shipped DeepSpeed config by name (zero2, zero3), or a JSON file by path. Raises FileNotFoundError."""
    path = CONFIGS / f"{name}.json" if not name.endswith(".json") else Path(name)
    if not path.exists():
        shipped = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.json")))
        raise FileNotFoundError(
            f"no DeepSpeed config {name!r}: shipped are {shipped}, else give a .json file's path"
        )
    return json.loads(path.read_text())


def launch(
    spec: FitSpec,
    base: str | Path,
    examples: Sequence[Any],
    out: Path,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Run fit() in `spec.processes` torchrun processes and return its result. Raises LaunchError when they fail."""
    _require_deepspeed()
    read_config(spec.deepspeed)
    if not isinstance(examples, (list, tuple)):
        raise ValueError(
            "DeepSpeed trainings need a list of examples: lazy data cannot be handed to other processes"
        )
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


def _run(job: Path, processes: int, on_progress: Any) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        # A run that was killed while compiling leaves a lock that later runs would wait for: a private folder.
        "TORCH_EXTENSIONS_DIR": str(job / "extensions"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    with (job / "output.txt").open("wb") as output:
        child = subprocess.Popen(
            [*command, "-m", "training.launch", str(job)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            _follow(child, job / "progress.jsonl", on_progress)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if child.returncode != 0:
        said = _last_words((job / "output.txt").read_text(errors="replace"))
        raise LaunchError(f"DeepSpeed training failed with exit code {child.returncode}:\n{said}")


def _last_words(output: str, lines: int = 30) -> str:
    """What the ranks printed before torchrun began to report that one of them had failed."""
    printed = output.splitlines()
    end = next((i for i, line in enumerate(printed) if "torch/distributed/elastic" in line), len(printed))
    return "\n".join(printed[max(0, end - lines) : end])


def _die_with_parent() -> None:
    """Have the kernel end torchrun, which ends its workers, when this process is killed: two must never write."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _follow(child: subprocess.Popen, path: Path, on_progress: Callable[[int, int, str], None] | None) -> None:
    seen = 0
    while child.poll() is None or (path.exists() and seen < path.stat().st_size):
        if path.exists():
            with path.open() as handle:
                handle.seek(seen)
                for line in iter(handle.readline, ""):
                    if not line.endswith("\n"):
                        break
                    seen += len(line.encode())
                    if on_progress:
                        on_progress(*json.loads(line))
        time.sleep(0.1)


def start_engine() -> None:
    """Bring up DeepSpeed's process group. Has to happen before TrainingArguments and before the model is built."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if not torch.cuda.is_available():
        # It would be compiled at start, for an all-reduce that only inference uses.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)


def touch_vision(inner: torch.nn.Module) -> None:
    """Make text-only batches run the vision tower on one blank tile, times zero, while training.

    Otherwise ranks with and without images disagree on which gradients there are: gloo fails, NCCL hangs.
    It has to sit inside `forward`, where it follows DeepSpeed's own gathering of parameters. `inner`: the model under
    the language-model head.
    """
    plain, side = inner.forward, inner.config.vision_config.image_size

    def forward(
        input_ids: Any = None, pixel_values: Any = None, inputs_embeds: Any = None, **kwargs: Any
    ) -> Any:
        if inner.training and pixel_values is None and inputs_embeds is None:
            inputs_embeds = inner.get_input_embeddings()(input_ids)
            inputs_embeds = inputs_embeds + 0.0 * _blank_features(inner, inputs_embeds, side).to(
                inputs_embeds.dtype
            )
            return plain(inputs_embeds=inputs_embeds, **kwargs)
        return plain(input_ids=input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **kwargs)

    inner.forward = forward


def _blank_features(inner: torch.nn.Module, like: torch.Tensor, side: int) -> torch.Tensor:
    """Sum of the projected features of one black tile."""
    pixels = like.new_zeros(1, 3, side, side)
    sizes = {}
    if hasattr(inner, "image_newline"):  # OneVision: an entry of 2 asks for a single tile
        device = like.device
        sizes = {
            "image_sizes": torch.tensor([[side, side]], device=device),
            "batch_num_images": torch.tensor([2], device=device),
        }
    return torch.cat(list(inner.get_image_features(pixels, **sizes, return_dict=True).pooler_output)).sum()


def gathered(trainer: Any, plain_model: Callable[[], Any]) -> Any:
    """The trained model with whole weights, to be saved on rank 0. All ranks must call this.

    Under ZeRO-3 the shards are collected into a new model made by `plain_model`: the collected names are not those of
    the Hugging Face layout, so they must not be written as they are.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

    if not is_deepspeed_zero3_enabled():
        return trainer.model
    weights = trainer.accelerator.get_state_dict(trainer.deepspeed)
    unset_hf_deepspeed_config()
    if not trainer.args.should_save:
        return trainer.model
    model = plain_model()
    result = model.load_state_dict(weights, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("lm_head.weight")]
    if missing or result.unexpected_keys:
        raise RuntimeError(
            f"collected weights do not fit: missing {missing}, unexpected {result.unexpected_keys}"
        )
    model.tie_weights()
    return model


def main(job: Path) -> None:
    """One rank of a launched training."""
    from training.fit import fit

    start_engine()
    with (job / "job.pickle").open("rb") as handle:
        work = pickle.load(handle)
    progress = (job / "progress.jsonl").open("a", buffering=1)

    def report(step: int, steps: int, message: str) -> None:
        progress.write(json.dumps([step, steps, message]) + "\n")

    result = fit(work["spec"], work["base"], work["examples"], Path(work["out"]), report)
    if int(os.environ["RANK"]) == 0:
        (job / "result.json").write_text(json.dumps(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
