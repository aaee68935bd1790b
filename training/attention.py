"""Attention over packs: each example of a pack sees itself only, without a mask of all tokens by all tokens.

    name = choose(model)            # "varlen" on a GPU, "segments" elsewhere
    model(**Collator(..., packed=True)(examples))

The language model alone gets it, through transformers' AttentionInterface; the vision tower keeps its own. A
batch without `cu_seq_lens_q` (padded, branches, generation) goes through sdpa as before.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

Choice = Literal["auto", "sdpa", "varlen", "flash"]
PACKED = "winnow_packed"
"""Name under which transformers knows `packed_attention`."""
HALF = (torch.bfloat16, torch.float16)
"""The types that varlen kernels take."""


def choose(model: PreTrainedModel, choice: Choice = "auto", on_gpu: bool | None = None) -> str:
    """Set the attention of the language model; returns what packs will use.

    `on_gpu`: whether it will run on a GPU; default: whether it is there now.

    auto: "varlen" where PyTorch has it and the model is on a GPU, else "flash" if flash-attn is installed
    there, else "segments" (one call of sdpa for each example). sdpa: transformers' own, which builds a mask
    of all tokens of a pack by all tokens. varlen, flash: these or a ValueError that says what is missing.
    """
    if on_gpu is None:
        on_gpu = next(model.parameters()).device.type == "cuda"
    if choice == "auto":
        choice = (
            "varlen" if on_gpu and varlen_kernel() else "flash" if on_gpu and has_flash_attn() else "auto"
        )
    if choice == "varlen" and not (on_gpu and varlen_kernel()):
        raise ValueError(
            "attention: varlen needs a GPU and a PyTorch with torch.nn.attention.varlen; use auto"
        )
    if choice == "flash" and not (on_gpu and has_flash_attn()):
        raise ValueError("attention: flash needs a GPU and `pip install flash-attn`; use auto")
    if choice in ("auto", "varlen"):
        AttentionInterface.register(PACKED, packed_attention)
        AttentionMaskInterface.register(PACKED, packed_mask)
    name = {"flash": "flash_attention_2", "sdpa": "sdpa"}.get(choice, PACKED)
    model.set_attn_implementation({"text_config": name})
    used = model.config.get_text_config()._attn_implementation
    if used != name:
        raise ValueError(f"{type(model).__name__} does not take attention {name!r}, it keeps {used!r}")
    return {"auto": "segments"}.get(choice, choice)


def varlen_kernel() -> Callable[..., torch.Tensor] | None:
    """PyTorch's attention over sequences of different lengths; None in a version that lacks it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def has_flash_attn() -> bool:
    """Whether transformers finds the package flash-attn."""
    from transformers.utils import is_flash_attn_2_available

    return is_flash_attn_2_available()


def packed_mask(
    *, attention_mask: torch.Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: Any
) -> torch.Tensor | None:
    """The mask as sdpa wants it; for a pack an empty tensor, which tells `packed_attention` that it is one.

    transformers recognises a pack by positions that start again while there is no attention_mask, and forbids
    to skip the mask then.
    """
    if attention_mask is None and not allow_is_causal_skip:
        return torch.empty(0, device=kwargs.get("device", "cpu"))
    return sdpa_mask(attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **kwargs)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment of a pack; without segments, sdpa.

    query [B, heads, T, D], key and value [B, kv_heads, T, D]; `cu_seq_lens_q` int32 [segments + 1] are the
    borders of a pack's segments (then B is 1), `max_length_q` is the longest. Returns [B, T, heads, D].
    Raises ValueError for a pack without borders: it would mix examples.
    """
    is_pack = attention_mask is not None and attention_mask.numel() == 0
    if cu_seq_lens_q is None:
        if is_pack:
            raise ValueError(
                "positions start again within a row, but cu_seq_lens_q is missing: examples would mix"
            )
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if attention_mask is not None and not is_pack:
        raise ValueError("a pack has no attention_mask: cu_seq_lens_q says which tokens see each other")
    if dropout or kwargs.get("sliding_window") or kwargs.get("softcap"):
        raise ValueError(
            "packs support neither attention dropout nor sliding windows nor softcap: train padded"
        )
    device = query.device.type
    if torch.is_autocast_enabled(device):  # rotary embeddings leave queries and keys in float32
        half = torch.get_autocast_dtype(device)
        query, key, value = query.to(half), key.to(half), value.to(half)
    if query.is_cuda and query.dtype in HALF and varlen_kernel():
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling), None
    return _segments(query, key, value, cu_seq_lens_q, scaling), None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int | None,
    scaling: float | None,
) -> torch.Tensor:
    kernel, options = varlen_kernel(), {}
    assert kernel is not None
    longest = longest or int(borders.diff().max())
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in inspect.signature(kernel).parameters:
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    query, key, value = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    out = kernel(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        **options,
    )
    return out[None]


def _segments(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    sizes = borders.diff().tolist()
    parts = zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True)
    gqa = key.shape[1] != query.shape[1]
    outs = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=gqa)
        for q, k, v in parts
    ]
    return torch.cat(outs, dim=2).transpose(1, 2)
