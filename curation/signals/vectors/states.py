"""Vectors from the states of a vision-language model's decoder: which layers, which tokens, pooled how.

    pooled_states(vlm, examples, layers=[3, 7], state="attention", tokens="halves_after_image",
                  pooling="mean", squash="tanh", unit=True)  # COINCIDE's vectors

One vector for each part of the tokens (the two halves have two parts); several layers are concatenated.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation.signals.vectors.attention import attentive_states
from curation.signals.vectors.decoder import layer_states
from curation.signals.vectors.presets import ATTENTIVE

if TYPE_CHECKING:
    import torch

    from curation.signals.core.vlm import Vlm
    from training.render import Encoded


def pooled_states(
    vlm: "Vlm",
    examples: Sequence["Encoded"],
    *,
    layers: Sequence[int],
    state: str = "hidden",
    tokens: str = "all",
    pooling: str = "mean",
    squash: str = "none",
    unit: bool = False,
    first_tokens: int | None = None,
) -> list[tuple[np.ndarray | None, ...]]:
    """A vector float32 [layers · hidden size] for each part of every example, None for a part without tokens.

    layers: from 0. state: their "hidden" output (of the last layer after the final norm) or that of their
    "attention". tokens: as in `parts_of`. pooling: "mean", the "last" of the tokens, or "position_weighted",
    sum of t · h_t over sum of t, t counting the part's tokens from 1 (RDS+, arXiv 2503.01807); "attended" and
    "attention_pair" weight by the model's attention (attention.py) and take no other setting. squash: "tanh"
    of the pooled vector (COINCIDE, arXiv 2406.10995: of the mean, not the mean of tanh). unit: each layer's
    vector gets unit length, then 1 / sqrt(layers · parts), so that all parts together have length 1.
    first_tokens: only these count; a causal decoder gives them the states that it would give without the
    rest.
    """
    import torch

    if pooling in ATTENTIVE:
        return attentive_states(
            vlm, examples, layers=layers, state=state, pooling=pooling, first_tokens=first_tokens
        )
    batch = vlm.batch(examples)
    states = layer_states(vlm, batch, layers, state)
    is_image = batch["input_ids"] == vlm.renderer.image_id
    parts = parts_of(is_image, batch["attention_mask"].bool(), tokens, first_tokens)
    scale = 1 / math.sqrt(len(layers) * len(parts)) if unit else None
    vectors = [
        torch.cat([_pool(layer, mask, pooling, squash, scale) for layer in states], dim=1).cpu().numpy()
        for mask in parts
    ]
    held = [mask.any(dim=1).tolist() for mask in parts]
    return [
        tuple(part[i] if known[i] else None for part, known in zip(vectors, held, strict=True))
        for i in range(len(examples))
    ]


def parts_of(
    is_image: "torch.Tensor", used: "torch.Tensor", tokens: str, first_tokens: int | None = None
) -> list["torch.Tensor"]:
    """Masks bool [B, T] of the parts of the tokens that are pooled.

    is_image: bool [B, T], tokens of images; used: bool [B, T], no padding. tokens: "all", those of the
    "image", all others ("text"), "text_after_image" (text after the first token of the first image; none in a
    sample without one), or two parts: "halves" (image, text) and "halves_after_image" (image,
    text_after_image).
    """
    if first_tokens is not None:
        used = used & (used.cumsum(dim=1) <= first_tokens)
    image, text = used & is_image, used & ~is_image
    after = text & (image.cumsum(dim=1) > 0)
    return {
        "all": [used],
        "image": [image],
        "text": [text],
        "text_after_image": [after],
        "halves": [image, text],
        "halves_after_image": [image, after],
    }[tokens]


def weights_of(mask: "torch.Tensor", pooling: str) -> "torch.Tensor":
    """float32 [B, T]: the weight of each token of the mask bool [B, T]; they sum to 1, or are all 0."""
    count = mask.cumsum(dim=1)
    weights = {
        "mean": mask,
        "last": mask & (count == count[:, -1:]),
        "position_weighted": mask * count,
    }[pooling].float()
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)


def _pool(
    states: "torch.Tensor", mask: "torch.Tensor", pooling: str, squash: str, scale: float | None
) -> "torch.Tensor":
    """float32 [B, H] of states [B, T, H], of length `scale` if it is given; 0 where the mask is nowhere."""
    import torch

    vector = (states.float() * weights_of(mask, pooling)[..., None]).sum(dim=1)
    if squash == "tanh":
        vector = vector.tanh()
    return vector if scale is None else torch.nn.functional.normalize(vector, dim=1) * scale
