"""Greedy decoding that drops finished rows from the batch: one long answer then does not delay a batch."""

from collections.abc import Mapping
from typing import Any

import torch

SHRINK = 0.75
"""The batch shrinks when at most this share of its rows is unfinished: each time, the cache is copied."""


@torch.inference_mode()
def greedy(
    model: Any, batch: Mapping[str, torch.Tensor], *, max_new_tokens: int, ends: torch.Tensor, pad: int
) -> torch.Tensor:
    """New tokens int64 [rows, max_new_tokens], `pad` after each row's end token; equals
    `generate(do_sample=False)`.

    `batch`: left-padded model inputs, with input_ids and attention_mask int64 [rows, T]. `ends`: the end
    tokens.
    """
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = torch.full((len(mask), max_new_tokens), pad, device=mask.device)
    rows = torch.arange(len(mask), device=mask.device)
    open_rows = torch.ones_like(rows, dtype=torch.bool)
    step = model(**batch, position_ids=positions, use_cache=True, logits_to_keep=1)
    positions = positions[:, -1:]
    for k in range(max_new_tokens):
        tokens = torch.where(open_rows, step.logits[:, -1].argmax(-1), pad)
        out[rows, k] = tokens
        open_rows &= ~torch.isin(tokens, ends)
        if k + 1 == max_new_tokens or not open_rows.any():
            return out
        if open_rows.float().mean() <= SHRINK:
            keep = open_rows.nonzero()[:, 0]
            step.past_key_values.batch_select_indices(keep)
            rows, tokens, mask, positions, open_rows = (
                t[keep] for t in (rows, tokens, mask, positions, open_rows)
            )
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = positions + 1
        step = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=step.past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )
    return out
