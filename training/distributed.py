"""What a training needs of DeepSpeed inside a torchrun process: configuration, engine, ZeRO's quirks.

Nothing here starts processes: `training.launch` does, and `training.rank` is what they run.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import torch

from training.deepspeed import path_of
from training.families import of_config


def inside_torchrun() -> bool:
    """Whether this process is a rank that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def read_config(name: str) -> dict[str, Any]:
    """A shipped DeepSpeed config by name (zero2, zero3), or a JSON file by path. Raises FileNotFoundError."""
    return json.loads(path_of(name).read_text())


def start_engine() -> None:
    """Initialise DeepSpeed's process group. Call it before constructing TrainingArguments and the model."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if not torch.cuda.is_available():
        # DeepSpeed would compile this op at start, for an all-reduce that only inference uses. It has no
        # public switch.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)


def touch_vision(inner: Any) -> None:
    """Make text-only batches read one blank image, of which no feature is used, while training.

    Otherwise ranks with and without images disagree on which parameters have gradients: gloo fails, NCCL
    hangs. `inner` is the model under the language-model head. The blank image goes through the model's own
    `forward`, so that parameters are gathered, and gradients arrive, in the order in which they do for real
    images: ZeRO pairs them by that order over the ranks.
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


def gathered(trainer: Any, plain_model: Callable[[], Any]) -> Any:
    """The trained model with unsharded weights, to be saved by rank 0. All ranks must call this.

    Under ZeRO-3 the shards are collected into a new model made by `plain_model`: the collected names are not
    those of the Hugging Face layout, so they must not be written as they are. Raises RuntimeError if they do
    not fit.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

    if not is_deepspeed_zero3_enabled():
        return trainer.model
    weights = trainer.accelerator.get_state_dict(trainer.deepspeed)
    unset_hf_deepspeed_config()  # or `plain_model` would be sharded as well
    if not trainer.args.should_save:
        return trainer.model
    model = plain_model()
    result = model.load_state_dict(weights, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("lm_head.weight")]  # tied
    if missing or result.unexpected_keys:
        raise RuntimeError(
            f"collected weights do not fit the model: missing {missing}, unexpected {result.unexpected_keys}"
        )
    model.tie_weights()
    return model
