"""Greedy decoding that drops finished rows from the batch: one long answer then does not delay a batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

SHRINK = 0.75
"""The batch shrinks when at most this share of its rows is unfinished: each time, the cache is copied."""
STRIDE = 8
"""Rows are searched for stop strings after every so many tokens: that decodes them to text."""

Stops = Callable[[torch.Tensor], torch.Tensor]
"""New tokens int64 [rows, k] -> bool [rows]: the row has all that its answer needs."""


class Decoded(NamedTuple):
    """New tokens int64 [rows, max_new_tokens], `pad` after each row's last; how many a row has, int64 [rows].

    The end token counts.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor


@torch.inference_mode()
def greedy(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    *,
    max_new_tokens: int,
    ends: torch.Tensor,
    pad: int,
    stops: Stops | None = None,
) -> Decoded:
    """The tokens of `generate(do_sample=False)`; a row is also done when `stops` says so.

    `batch`: left-padded model inputs, with input_ids and attention_mask int64 [rows, T], and position_ids
    int64 [..., rows, T], which go on by one with each new token. `ends`: the end tokens.
    """
    mask, positions = batch["attention_mask"], batch["position_ids"]
    out = torch.full((len(mask), max_new_tokens), pad, device=mask.device)
    lengths = torch.zeros(len(mask), dtype=torch.int64, device=mask.device)
    rows = torch.arange(len(mask), device=mask.device)
    open_rows = torch.ones_like(rows, dtype=torch.bool)
    step = model(**batch, use_cache=True, logits_to_keep=1)
    positions = positions[..., -1:]
    for k in range(max_new_tokens):
        tokens = torch.where(open_rows, step.logits[:, -1].argmax(-1), pad)
        out[rows, k] = tokens
        lengths[rows] += open_rows
        open_rows &= ~torch.isin(tokens, ends)
        if stops is not None and (k + 1) % STRIDE == 0:
            open_rows &= ~stops(out[rows, : k + 1])
        if k + 1 == max_new_tokens or not open_rows.any():
            return Decoded(out, lengths)
        if open_rows.float().mean() <= SHRINK:
            keep = open_rows.nonzero()[:, 0]
            step.past_key_values.batch_select_indices(keep)
            rows, tokens, mask, open_rows = (t[keep] for t in (rows, tokens, mask, open_rows))
            positions = positions[..., keep, :]
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
    return Decoded(out, lengths)
