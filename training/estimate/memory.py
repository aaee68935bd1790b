"""Memory of one process of a training, in bytes, by what it is for; and the sizes of its checkpoints.

Model states are counted: weights, gradients, fp32 master weights and Adam's two moments, divided as the ZeRO
stage says (arXiv 1910.02054, section 3). Activations are counted too: the tensors that the blocks of
transformers keep for the backward pass with an attention that stores no score matrix. Buffers are the sizes
that the DeepSpeed configuration names. What is assumed has its name below.
"""

import json
from dataclasses import dataclass, fields

from training.deepspeed import path_of
from training.estimate.shapes import Blocks, Shape, fully_trained
from training.spec import FitSpec, Part

RESERVE = 2 << 30
"""Assumed: bytes of a GPU that the CUDA context, NCCL, cuBLAS and a fragmented allocator take."""
LIVE = 10**9
"""DeepSpeed's default `stage3_max_live_parameters`: parameters gathered at one time under ZeRO-3."""


@dataclass(frozen=True)
class Engine:
    """How the states are divided: ZeRO `stage` (None: without DeepSpeed) over `world` processes.

    `host_optimizer`, `host_weights`: kept in host memory. `bucket`: elements of a reduction bucket; None: the
    square of the model's width, which is what accelerate makes of "auto".
    """

    stage: int | None
    world: int
    host_optimizer: bool = False
    host_weights: bool = False
    bucket: int | None = 500_000_000
    name: str = "plain"

    @classmethod
    def of(cls, deepspeed: str | None, world: int) -> "Engine":
        """The engine of a FitSpec's `deepspeed`: a shipped name or a JSON file. Raises FileNotFoundError."""
        if deepspeed is None:
            return cls(None, world)
        zero = json.loads(path_of(deepspeed).read_text()).get("zero_optimization", {})
        device = {
            key: (zero.get(f"offload_{key}") or {}).get("device", "none") for key in ("optimizer", "param")
        }
        bucket = zero.get("reduce_bucket_size", cls.bucket)
        return cls(
            zero.get("stage", 0),
            world,
            host_optimizer=device["optimizer"] != "none",
            host_weights=device["param"] != "none",
            bucket=None if bucket == "auto" else int(bucket),
            name=deepspeed,
        )

    def share(self, since: int) -> int:
        """Processes over which a state is divided that ZeRO divides from stage `since` on."""
        return self.world if (self.stage or 0) >= since else 1


@dataclass(frozen=True)
class Forward:
    """What one forward pass of one process reads: tokens (padding included), labels and tower positions."""

    tokens: int
    labels: int
    patches: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step; `host` is host memory of one process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    host: int

    @property
    def states(self) -> int:
        """Weights, gradients and optimizer states."""
        return self.weights + self.gradients + self.optimizer

    @property
    def gpu(self) -> int:
        """All of it that is on the GPU."""
        return sum(getattr(self, field.name) for field in fields(self) if field.name != "host")


def weight_bytes(spec: FitSpec) -> int:
    """Bytes of a weight: bf16 under DeepSpeed; without it bf16 is autocast over fp32 weights."""
    return 2 if spec.precision == "bf16" and spec.deepspeed else 4


def memory(shape: Shape, spec: FitSpec, engine: Engine, forward: Forward) -> Memory:
    """Peak of one process."""
    trained, everything = sum(shape.trained(spec).values()), shape.parameters() + adapters(shape, spec)
    width = weight_bytes(spec) if engine.stage is not None else 4
    weights = everything * width // engine.share(3)
    gradients = trained * width // engine.share(2)
    optimizer = trained * optimizer_bytes(engine) // engine.share(1)
    host = (optimizer if engine.host_optimizer else 0) + (weights if engine.host_weights else 0)
    return Memory(
        weights=0 if engine.host_weights else weights,
        gradients=gradients,
        optimizer=0 if engine.host_optimizer else optimizer,
        activations=activations(shape, spec, forward),
        logits=logits(shape, spec, forward.labels),
        buffers=_buffers(shape, everything, trained, width, spec, engine) + RESERVE,
        host=host,
    )


def adapters(shape: Shape, spec: FitSpec) -> int:
    """Parameters that LoRA adds to the model."""
    own = sum(shape.parameters(part) for part in spec.train_parts)
    return sum(shape.trained(spec).values()) - own if spec.lora else 0


def optimizer_bytes(engine: Engine) -> int:
    """Bytes of optimizer state for a trained parameter: Adam's moments, and DeepSpeed's fp32 master."""
    return 8 if engine.stage is None else 12


def _buffers(shape: Shape, everything: int, trained: int, width: int, spec: FitSpec, engine: Engine) -> int:
    """Buckets of the gradients' reduction, gathered weights, and autocast's copies of the weights."""
    if engine.stage is None:
        copies = 2 * everything if spec.precision == "bf16" else 0
        return copies + (4 * trained if engine.world > 1 else 0)  # DDP has buckets of its own
    bucket = engine.bucket or shape.hidden**2
    reduced = 2 * min(bucket, trained) * width  # two, as communication overlaps with the backward pass
    gathered = min(LIVE, everything) * width if engine.stage == 3 and engine.world > 1 else 0
    return reduced + gathered


def activations(shape: Shape, spec: FitSpec, forward: Forward) -> int:
    """Bytes that the blocks keep for the backward pass. A part below all trained ones keeps nothing."""
    total = 0
    for part, positions in (("vision", forward.patches), ("language", forward.tokens)):
        if not positions or not shape.flows(spec, part):
            continue
        blocks = shape.blocks(part)
        each = block_bytes(blocks, spec, part) + _adapter_bytes(shape, spec, part, blocks.count)
        kept = blocks.count * each
        if spec.gradient_checkpointing:  # the inputs of these blocks, and one block that is computed again
            every = int(spec.gradient_checkpointing) if part == "language" else 1
            again = -(-blocks.count // every)
            kept = (blocks.count - again + 1) * each + again * blocks.hidden * weight_bytes(spec)
        total += positions * round(kept)
    return total


def block_bytes(blocks: Blocks, spec: FitSpec, part: Part) -> int:
    """Bytes that one block keeps for the backward pass, for each position.

    Two norms, the inputs of the matrices that are trained or adapted, queries, keys, values, and the inner
    tensors of the MLP: gate, its SiLU, up and their product (the last matrix's input) for SwiGLU, else before
    and after the activation function. Autocast leaves the residual stream in fp32.
    """
    product, stream = 2 if spec.precision == "bf16" else 4, weight_bytes(spec)
    trained = fully_trained(spec, part)
    reads = trained or (spec.lora is not None and part in spec.lora.parts)
    hidden, inner = blocks.hidden, blocks.inner
    if blocks.gated:  # RMSNorm keeps its input in fp32 and, to train its weight, the normalised tensor
        norms = 2 * (4 * hidden + 4) + (2 * stream * hidden if trained else 0)
        mlp = (4 if reads else 3) * inner
    else:  # LayerNorm keeps its input, mean and deviation
        norms = 2 * (stream * hidden + 8)
        mlp = (2 if reads else 1) * inner
    matrices = 2 * hidden + blocks.query if reads else 0
    # The output of attention is kept anyway, for its own backward pass; it is the last matrix's input.
    attention = 2 * blocks.query + 2 * blocks.key - (blocks.query if reads else 0)
    return norms + product * (matrices + attention + mlp) + 4 * blocks.heads


def _adapter_bytes(shape: Shape, spec: FitSpec, part: str, count: int) -> float:
    """Bytes that the adapters of one block keep besides, for each position: what lies between A and B."""
    if spec.lora is None or part not in spec.lora.parts:
        return 0
    adapted = sum(weight.adaptable for weight in shape.weights if weight.part == part)
    return adapted / count * spec.lora.r * (2 if spec.precision == "bf16" else 4)


def logits(shape: Shape, spec: FitSpec, labels: int) -> int:
    """Bytes of the loss at its peak: logits, log-probabilities and gradient in fp32, and bf16 logits."""
    chunk = spec.loss_chunk or labels
    return min(labels, chunk) * shape.vocabulary * (16 if spec.precision == "bf16" else 12)


@dataclass(frozen=True)
class Disk:
    """Bytes on disk: the final checkpoint's weights, one state to resume from, and the most at one time."""

    final: int
    state: int

    @property
    def peak(self) -> int:
        """While a state is saved the one before is still there, and both until the final one is written."""
        return 2 * self.state + self.final


def disk(shape: Shape, spec: FitSpec, engine: Engine) -> Disk:
    """Sizes of what a training writes; configuration and tokenizer, some megabytes, are left out."""
    trained, width = sum(shape.trained(spec).values()), weight_bytes(spec)
    final = shape.parameters() * width
    if engine.stage is None:  # trained weights and Adam's moments
        return Disk(final, trained * (4 + 8))
    whole = shape.parameters() + adapters(shape, spec)
    return Disk(final, whole * width + trained * optimizer_bytes(engine))
