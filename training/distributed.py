"""What a training needs inside a torchrun process: process group, engine, ZeRO's quirks.

Nothing here starts processes: `training.launch` does, and `training.rank` is what they run.
"""

import json
import os
import sys
from typing import Any, NoReturn

import torch

from training.deepspeed import path_of
from training.families import of_config

OWN = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
}
"""What a config that leaves it out gets, the training's own settings: DeepSpeed itself would clip at 1.0, and
compute without float32 masters."""


def inside_torchrun() -> bool:
    """Whether this process is a rank that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def read_config(name: str) -> dict[str, Any]:
    """A shipped DeepSpeed config by name (zero2, zero3_offload...), or a JSON file by path. Raises
    FileNotFoundError."""
    return OWN | json.loads(path_of(name).read_text())


def start_engine(deepspeed: str | None) -> None:
    """Initialise the process group of this rank, DeepSpeed's with a DeepSpeed configuration.

    Call it before constructing TrainingArguments and the model.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_gpu else "gloo"
    if deepspeed is None:
        torch.distributed.init_process_group(backend)
        return
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed as library

    if not on_gpu:
        # DeepSpeed would compile this op at start, for an all-reduce that only inference uses. It has no
        # public switch.
        library.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    library.init_distributed(dist_backend=backend, auto_mpi_discovery=False)


def end_rank(status: int = 0) -> NoReturn:
    """End this process with `status` when all ranks have come here: torchrun ends the others after the first.

    Without the interpreter's own end: threads of the process group may still run then, and C++ aborts a
    process whose running thread is destroyed, which torchrun takes for a failed rank.
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class WrongEngine(RuntimeError):
    """The training would run under another engine than the settings name."""


def check_engine(engine: Any, config: dict[str, Any] | None) -> str:
    """What trains the model of this rank, in words: `plain`, `DDP`, `ZeRO-2, optimizer state on cpu`.

    `engine` is the Trainer's wrapped model. Raises WrongEngine unless it is what the DeepSpeed `config`
    asks for (None: DDP, if there are several processes): accelerate can silently fall back to DDP.
    """
    if config is None:
        wanted = "DDP" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else "plain"
    else:
        zero = config.get("zero_optimization", {})
        devices = [zero.get(f"offload_{part}", {}).get("device") for part in ("optimizer", "param")]
        wanted = _zero(zero.get("stage", 0), *devices)
    found = _in_use(engine)
    if found != wanted:
        raise WrongEngine(
            f"the settings ask for {wanted}, but {found} is in use: start the training by torchrun"
        )
    return found


def _in_use(engine: Any) -> str:
    """The same words, from what the engine itself reports."""
    if type(engine).__name__ != "DeepSpeedEngine":
        return "DDP" if isinstance(engine, torch.nn.parallel.DistributedDataParallel) else "plain"
    parts = engine.zero_offload_optimizer(), engine.zero_offload_param()
    devices = [getattr(part.device, "value", part.device) if part else None for part in parts]
    return _zero(engine.zero_optimization_stage(), *devices)


def _zero(stage: int, optimizer: str | None, parameters: str | None) -> str:
    away = {"optimizer state": optimizer, "parameters": parameters}
    places = [f"{what} on {device}" for what, device in away.items() if device not in (None, "none")]
    return ", ".join([f"ZeRO-{stage}", *places])


def touch_vision(inner: Any) -> None:
    """Make text-only batches read one blank image, of which no feature is used, while training.

    Otherwise ranks with and without images disagree on which parameters have gradients: gloo fails, NCCL
    hangs. One process that trains vision or projector does the same: a step of texts then moves them as it
    does on several ranks, by Adam's moments. `inner` is the model under the language-model head. The blank
    image goes through the model's own `forward`, so that parameters are gathered, and gradients arrive, in
    the order in which they do for real images: ZeRO pairs them by that order over the ranks.
    """
    family, plain, features = of_config(inner.config), inner.forward, inner.get_image_features
    blank = family.blank(inner.config)

    def forward(input_ids: Any = None, pixel_values: Any = None, **inputs: Any) -> Any:
        if not inner.training or input_ids is None or pixel_values is not None:
            return plain(input_ids=input_ids, pixel_values=pixel_values, **inputs)
        inner.get_image_features = lambda *args, **options: family.no_rows(features(*args, **options))
        try:
            return plain(input_ids=input_ids, **{**inputs, **on(input_ids.device)})
        finally:
            inner.get_image_features = features

    def on(device: torch.device) -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in blank.items()}

    inner.forward = forward
