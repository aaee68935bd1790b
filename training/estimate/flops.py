"""FLOPs of a training: products of matrices with tokens, and attention, forward and backward.

A product of a trained matrix costs 2 FLOPs for each element and token forward, and twice that backward; one
of a frozen matrix only passes gradients on (2 backward), and below all trained parts has no backward pass
(arXiv 2001.08361, section 2.1). Recomputed activations are not counted, as is usual for MFU.
"""

from training.estimate.lengths import Lengths
from training.estimate.shapes import Blocks, Shape, fully_trained
from training.spec import FitSpec, Part


def flops(shape: Shape, spec: FitSpec, lengths: Lengths, *, causal: bool = True) -> float:
    """FLOPs of one pass over the examples. `causal`: count the visible half of the score matrix only."""
    tokens, patches = lengths.tokens.astype(float), lengths.patches.astype(float)
    seen = (tokens**2).sum() / (2 if causal else 1)
    total = tokens.sum() * _products(shape, spec, "language") + _attention(shape, spec, "language", seen)
    head = 2 * shape.vocabulary * shape.hidden * _passes(shape, spec, "language")
    total += lengths.labels.sum() * head
    if patches.any():
        total += patches.sum() * _products(shape, spec, "vision")
        total += patches.sum() / shape.pooled * _products(shape, spec, "projector")
        total += _attention(shape, spec, "vision", patches.sum() * shape.tower_span)
    return float(total)


def _passes(shape: Shape, spec: FitSpec, part: Part) -> int:
    """Products for each one of the forward pass: itself, the input's gradient, the weight's gradient."""
    return 1 + shape.flows(spec, part) + fully_trained(spec, part)


def _products(shape: Shape, spec: FitSpec, part: Part) -> float:
    """FLOPs of a part's matrices for one position, adapters included."""
    inside = [weight for weight in shape.weights if weight.part == part and weight.multiplies]
    total = 2.0 * sum(weight.size for weight in inside) * _passes(shape, spec, part)
    if spec.lora and part in spec.lora.parts:
        total += 3 * 2 * spec.lora.r * sum(sum(weight.shape) for weight in inside if weight.adaptable)
    return total


def _attention(shape: Shape, spec: FitSpec, part: Part, pairs: float) -> float:
    """FLOPs of scores and of their products with values, over `pairs` of positions; twice that backward."""
    blocks: Blocks = shape.blocks(part)
    return 4.0 * pairs * blocks.query * blocks.count * (3 if shape.flows(spec, part) else 1)
