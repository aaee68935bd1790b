"""Vectors from the states of a vision-language model's decoder: which layers, which tokens, pooled how.

    pooled_states(vlm, examples, layers=[3, 7], state="attention", tokens="halves_after_image",
                  pooling="mean", squash="tanh", unit=True)  # COINCIDE's vectors

One vector for each part of the tokens (the two halves have two parts); several layers are concatenated.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.signals.vectors.attention import attentive_states
from curation.signals.vectors.presets import ATTENTIVE

if TYPE_CHECKING:
    import torch

    from curation.signals.core.vlm import Vlm
    from training.render import Encoded


class LayerError(ValueError):
    """A layer that the model does not have, or a model whose layers cannot be found."""


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


def layer_states(
    vlm: "Vlm", batch: dict[str, "torch.Tensor"], layers: Sequence[int], state: str
) -> list["torch.Tensor"]:
    """The states [B, T, H] of the layers, from one forward pass."""
    with captured(vlm.model, layers, state) as outputs:
        after_norm = vlm.hidden(batch)
    # The last block's output lacks the decoder's final norm, which the model's last hidden state includes.
    last = len(decoder_layers(vlm.model)) - 1
    return [after_norm if state == "hidden" and layer == last else outputs[layer] for layer in layers]


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


def decoder_layers(model: Any) -> Sequence[Any]:
    """The blocks of a vision-language model's decoder. Raises LayerError where they are in another place."""
    decoder = getattr(getattr(model, "model", model), "language_model", None)
    if decoder is None or not hasattr(decoder, "layers"):
        raise LayerError(
            f"{type(model).__name__} has no model.language_model.layers: "
            "its hidden states cannot be read by layer"
        )
    return decoder.layers


def resolve_layers(layers: Sequence[int], count: int) -> list[int]:
    """Layer numbers from 0, of `count` layers.

    Raises LayerError for a number out of range, and for none at all.
    """
    if not layers or any(not -count <= layer < count for layer in layers):
        raise LayerError(
            f"layers must be from 0 (or -{count}) to {count - 1} (or -1), "
            f"the model has {count}; got {list(layers)}"
        )
    return [layer % count for layer in layers]


@contextmanager
def captured(model: Any, layers: Sequence[int], state: str) -> Iterator[dict[int, Any]]:
    """Inside the block, a dictionary of the layers' outputs in the last forward pass: {layer: [B, T, H]}."""
    outputs: dict[int, Any] = {}

    def keep(layer: int, _module: Any, _inputs: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    blocks = decoder_layers(model)
    targets = [
        (layer, blocks[layer].self_attn if state == "attention" else blocks[layer]) for layer in layers
    ]
    hooks = [module.register_forward_hook(partial(keep, layer)) for layer, module in targets]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
