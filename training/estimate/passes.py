"""FLOPs of scoring samples with a model: forward passes, questions after a shared prefix, generations,
gradients.

forward(shape, lengths, labels=lengths.labels)       # answer losses of each example, in FLOPs over all

Two FLOPs for each multiplication with a weight, causal attention once for each pair of tokens, and the head
on the positions that are read, as in `training.flops`. Padding and what a method does to the outputs (norms,
clustering, sorting) are not counted.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from training.estimate.lengths import Lengths
from training.estimate.shapes import Shape
from training.spec import FitSpec, LoraSpec


def forward(shape: Shape, lengths: Lengths, labels: Any = 0) -> float:
    """One forward pass over each example; the head is read at `labels` (or int [n]) positions of each."""
    read = np.broadcast_to(labels, lengths.tokens.shape)
    parts = shape.sizes.forward(lengths.tokens, read, lengths.patches(shape), lengths.images)
    return float(sum(part.sum() for part in parts.values()))


def questions(shape: Shape, lengths: Lengths, depths: Sequence[int], read: int) -> float:
    """Questions that share each example as their prefix, which is computed once.

    depths: of each token of the questions (the nodes of their trie), from 0; a token sees the prefix, its
    path and itself. read: positions at which the head is read.
    """
    sizes, prefixes = shape.sizes, np.asarray(lengths.tokens, np.float64)
    dense = 2.0 * (sizes.language.weights * len(depths) + sizes.head.weights * read) * len(lengths)
    pairs = len(depths) * prefixes.sum() + len(lengths) * (sum(depths) + len(depths))
    return forward(shape, lengths) + dense + 4.0 * sizes.language.attention * float(pairs)


def generation(shape: Shape, prompts: Lengths, new: Any) -> float:
    """Prompts that are continued token by token with a cache; `new`: generated tokens (number, or [n])."""
    new = np.broadcast_to(new, prompts.tokens.shape)
    # The last token is not read again.
    return forward(shape, replace(prompts, tokens=prompts.tokens + np.maximum(new - 1, 0)), labels=new)


def gradients(shape: Shape, lengths: Lengths, lora: LoraSpec, dim: int = 0) -> float:
    """Forward and backward pass of each example down to LoRA weights, and their projection to `dim` numbers.

    The projection of D weights takes 2 · D · dim (arXiv 2402.04333, section 3.2); 0: none.
    """
    each = shape.sizes.training(
        lengths.tokens,
        lengths.labels,
        lengths.patches(shape),
        lengths.images,
        trained=(),
        lora=lora.parts,
        rank=lora.r,
    )
    weights = sum(shape.trained(FitSpec(lora=lora)).values())
    return float(each.sum()) + 2.0 * weights * dim * len(lengths)


def without_images(lengths: Lengths) -> Lengths:
    """The examples as text alone."""
    nothing = np.zeros_like(lengths.images)
    tokens = np.maximum(1, lengths.tokens - lengths.image_tokens)
    return replace(lengths, tokens=tokens, image_tokens=nothing, images=nothing)


def without_questions(lengths: Lengths) -> Lengths:
    """The examples with their images and answers alone."""
    return replace(lengths, tokens=np.maximum(1, lengths.image_tokens + lengths.labels))


def longer(lengths: Lengths, tokens: int) -> Lengths:
    """The examples with so many tokens of text more."""
    return replace(lengths, tokens=lengths.tokens + tokens)


def of_mean(lengths: Lengths, count: float, flops: float) -> float:
    """FLOPs of `count` examples of mean cost, where `flops` are those of all of `lengths`."""
    return flops / max(1, len(lengths)) * count
