"""What a training needs of DeepSpeed inside a torchrun process: configuration, engine, ZeRO's quirks.

Nothing here starts processes: `training.launch` does, and `training.rank` is what they run.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import torch

from training.deepspeed import path_of


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
    """Make text-only batches run the vision tower on one blank tile, times zero, while training.

    Otherwise ranks with and without images disagree on which parameters have gradients: gloo fails, NCCL
    hangs. `inner` is the model under the language-model head. The tower must run inside `forward`: DeepSpeed
    gathers the sharded parameters in hooks that run before it.
    """
    plain, side = inner.forward, inner.config.vision_config.image_size

    def forward(
        input_ids: Any = None, pixel_values: Any = None, inputs_embeds: Any = None, **kwargs: Any
    ) -> Any:
        if inner.training and pixel_values is None and inputs_embeds is None:
            inputs_embeds = inner.get_input_embeddings()(input_ids)
            blank = 0.0 * _blank_features(inner, inputs_embeds, side)
            return plain(inputs_embeds=inputs_embeds + blank.to(inputs_embeds.dtype), **kwargs)
        return plain(input_ids=input_ids, pixel_values=pixel_values, inputs_embeds=inputs_embeds, **kwargs)

    inner.forward = forward


def _blank_features(inner: Any, like: torch.Tensor, side: int) -> torch.Tensor:
    """Sum of the projected features of one black tile, on the device of `like`."""
    pixels = like.new_zeros(1, 3, side, side)
    sizes = {}
    if hasattr(inner, "image_newline"):  # OneVision: an entry of 2 asks for a single tile
        sizes = {
            "image_sizes": torch.tensor([[side, side]], device=like.device),
            "batch_num_images": torch.tensor([2], device=like.device),
        }
    return torch.cat(list(inner.get_image_features(pixels, **sizes, return_dict=True).pooler_output)).sum()


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
