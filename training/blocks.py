"""The decoder's blocks one by one: compile them, and recompute the activations of some.

    recompute(model, every=2)       # half of the blocks keep their activations
    compile_blocks(model)           # after adapters were added

bf16: without DeepSpeed, weights stay float32 and products are bfloat16 (autocast); with DeepSpeed, weights
and gradients are bfloat16 and the optimizer keeps a float32 copy of the weights (16 bytes a trained parameter
in all). Both update float32 numbers: a step of 1e-5 times a weight is below what bfloat16's 8 bits can
represent.
"""

from typing import Any

import torch


def decoder_blocks(model: Any) -> list[torch.nn.Module]:
    """The layers of the language model, in order; also of a PEFT or DeepSpeed wrapper around it."""
    for _, module in model.named_modules():
        if hasattr(module, "embed_tokens") and isinstance(
            getattr(module, "layers", None), torch.nn.ModuleList
        ):
            return list(module.layers)
    raise ValueError(f"{type(model).__name__} has no decoder with `embed_tokens` and `layers`")


def compile_blocks(model: Any) -> int:
    """Compile each decoder block in place; returns their number. Names of parameters stay as they are.

    Blocks of one kind share their compiled code. Lengths are dynamic: packs differ in theirs.
    """
    blocks = decoder_blocks(model)
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)


def recompute(model: Any, every: int = 1) -> int:
    """Gradient checkpointing of each `every`-th decoder block and of the vision tower; returns how many
    blocks.

    What a block that is left out keeps costs memory and saves its second forward pass: with `every` 2, a
    sixth of the decoder's FLOPs instead of a third on top. The loss and its gradients do not change.
    """
    if every < 1:
        raise ValueError(f"recompute every {every} blocks: must be at least 1")
    options: dict[str, Any] = {"use_reentrant": False}
    enable = getattr(model, "activation_checkpointing_enable", None)  # older transformers have the other name
    if enable is not None:
        enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    model.enable_input_require_grads()
    blocks = decoder_blocks(model)
    for number, block in enumerate(blocks):
        block.gradient_checkpointing = number % every == 0
    return len(range(0, len(blocks), every))
