"""Vectors that weight states by the model's own attention: ARDS's pair, ScalSelect's attended image.

- "attended" (ScalSelect, arXiv 2602.11636): mean of the image's tokens that the text of the questions attends
  to most, until they have `ATTENDED` of its attention to the image. Text of the questions is all text but the
  answers: the chat template too, as in the released code.
- "attention_pair" (ARDS, NeurIPS 2025): the last token's state, and the sum of all earlier ones weighted by
  its attention to them, each of unit length, side by side.

Attention is that of the layer whose states are pooled, the mean over its heads, and needs the plain ("eager")
implementation of the decoder, which holds [heads, tokens, tokens] of one layer at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.signals.vectors.decoder import decoder_layers, layer_states

if TYPE_CHECKING:
    import torch

    from curation.signals.core.vlm import Vlm
    from training.render import Encoded

ATTENDED = 0.9

Reduce = Callable[["torch.Tensor"], "torch.Tensor"]
"""Attention [B, T, T] (query, key), mean over heads -> what is kept of it, [B, T]."""


@contextmanager
def attention_of(model: Any, layers: Sequence[int], reduce: Reduce) -> Iterator[dict[int, "torch.Tensor"]]:
    """Inside the block, {layer: reduced attention float32 [B, T]} of the last forward pass."""
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int, _module: Any, _inputs: Any, output: Any) -> None:
        found[layer] = reduce(output[1].float().mean(dim=1))

    blocks = decoder_layers(model)
    decoder = getattr(model, "model", model).language_model
    before = decoder.config._attn_implementation
    hooks = [blocks[layer].self_attn.register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        decoder.set_attn_implementation("eager")  # the only one that gives its weights
        yield found
    finally:
        decoder.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()


def from_last(used: "torch.Tensor") -> Reduce:
    """Keeps the attention of the last token of each row to the earlier ones, which add up to 1.

    used: bool [B, T], no padding.
    """
    import torch

    last = used.long().cumsum(dim=1).argmax(dim=1)  # the first place at which the count is reached

    def reduce(attention: "torch.Tensor") -> "torch.Tensor":
        rows = torch.arange(len(attention), device=attention.device)
        weights = attention[rows, last] * used
        weights[rows, last] = 0
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)

    return reduce


def from_questions(question: "torch.Tensor") -> Reduce:
    """Keeps the mean attention of the tokens of the mask bool [B, T] to every token."""

    def reduce(attention: "torch.Tensor") -> "torch.Tensor":
        total = (attention * question[..., None]).sum(dim=1)
        return total / question.sum(dim=1, keepdim=True).clamp(min=1)

    return reduce


def most_attended(attention: "torch.Tensor", image: "torch.Tensor") -> "torch.Tensor":
    """bool [B, T]: the tokens of the mask `image` with the most attention, one beyond ATTENDED included.

    attention: float32 [B, T]. Equal ones count from the left. Where no token gets any attention, all get the
    same.
    """
    import torch

    own = attention.double() * image
    total, count = own.sum(dim=1, keepdim=True), image.sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, own / total.clamp(min=1e-300), image / count.clamp(min=1))
    order = shares.masked_fill(~image, -1.0).argsort(dim=1, descending=True, stable=True)
    within = (shares.gather(1, order).cumsum(dim=1) <= ATTENDED).sum(dim=1, keepdim=True)
    places = torch.arange(image.shape[1], device=image.device)[None]
    chosen = torch.zeros_like(image).scatter(1, order, places <= within)
    return chosen & image


def attentive_states(
    vlm: "Vlm",
    examples: Sequence["Encoded"],
    *,
    layers: Sequence[int],
    state: str,
    pooling: str,
    first_tokens: int | None = None,
) -> list[tuple[np.ndarray | None, ...]]:
    """One vector float32 for every example, or (None,): [layers · hidden size], twice that for the pair.

    Arguments as of `states.pooled_states`. None: no image ("attended"), a single token ("attention_pair").
    """
    import torch

    from training.render import IGNORE

    batch = vlm.batch(examples)
    used, image = batch["attention_mask"].bool(), batch["input_ids"] == vlm.renderer.image_id
    if first_tokens is not None:
        used = used & (used.cumsum(dim=1) <= first_tokens)
    image = image & used
    question = used & ~image & (batch["labels"] == IGNORE)
    paired = pooling == "attention_pair"
    reduce = from_last(used) if paired else from_questions(question)
    with attention_of(vlm.model, layers, reduce) as attention:
        states = layer_states(vlm, batch, layers, state)
    pool = partial(_pair, used) if paired else partial(_attended, image)
    pooled = [pool(own.float(), attention[layer]) for own, layer in zip(states, layers, strict=True)]
    vectors = torch.cat(pooled, dim=1).cpu().numpy()
    held = (used.sum(dim=1) > 1 if paired else image.any(dim=1)).tolist()
    return [(vector if known else None,) for vector, known in zip(vectors, held, strict=True)]


def _pair(used: "torch.Tensor", states: "torch.Tensor", weights: "torch.Tensor") -> "torch.Tensor":
    """[B, 2 H]: unit last state beside the unit weighted sum of the states [B, T, H]."""
    import torch

    last = used.long().cumsum(dim=1).argmax(dim=1)
    rows = torch.arange(len(states), device=states.device)
    halves = (states[rows, last], (states * weights[..., None]).sum(dim=1))
    return torch.cat([torch.nn.functional.normalize(half, dim=1) for half in halves], dim=1)


def _attended(image: "torch.Tensor", states: "torch.Tensor", attention: "torch.Tensor") -> "torch.Tensor":
    """[B, H]: mean of the most attended of the image's states [B, T, H]."""
    mask = most_attended(attention, image)
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
