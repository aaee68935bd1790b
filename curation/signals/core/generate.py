"""Greedy continuations of a batch of prompts by a checkpoint."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from curation.signals.core.vlm import Vlm
    from training.render import Encoded


def generate(vlm: "Vlm", prompts: Sequence["Encoded"], max_new_tokens: int) -> list[str]:
    """The text that follows each prompt, up to the end of the turn or `max_new_tokens`.

    By the model's own `generate`, greedily, with the padding on the left. Must be called in inference mode.
    """
    from transformers import GenerationConfig

    batch = vlm.batch(prompts)
    del batch["labels"]
    # A complete configuration: a checkpoint's generation_config may set sampling or a repetition penalty.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=vlm.renderer.end_id,
        pad_token_id=vlm.renderer.pad_id,
    )
    longest = batch["input_ids"].shape[1]
    tokens = vlm.model.generate(**_padded_left(batch), generation_config=greedy)[:, longest:]
    return [vlm.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]


def _padded_left(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with its padding before the tokens instead of after them."""
    shape, padding = batch["attention_mask"].shape, (batch["attention_mask"] == 0).sum(dim=1).tolist()
    return {
        key: torch.stack([row.roll(by) for row, by in zip(value, padding, strict=True)])
        if value.shape == shape
        else value
        for key, value in batch.items()
    }
