"""The estimate of one training: volume, FLOPs, hours, memory of a process and sizes on disk.

cost = estimate(shape, spec, lengths, gpu="h100", world=8)
cost.hours, cost.memory.gpu, cost.fits
"""

import math
from dataclasses import dataclass

import numpy as np

from training.estimate.gpus import gpu_of
from training.estimate.lengths import Lengths
from training.estimate.memory import Disk, Engine, Forward, Memory, disk, memory
from training.estimate.shapes import PARTS, Shape, fully_trained
from training.spec import FitSpec

MFU = 0.4
"""Assumed share of a GPU's peak that the counted FLOPs reach, where nobody has measured it."""


@dataclass(frozen=True)
class Cost:
    """What one training costs. `seconds` is time on `world` GPUs, None without a named GPU."""

    parameters: int
    trained: int
    steps: int
    samples: int
    tokens: int
    flops: float
    memory: Memory
    disk: Disk
    engine: Engine
    gpu: str | None
    mfu: float

    @property
    def gpu_hours(self) -> float | None:
        """Hours of one GPU."""
        return self.flops / (gpu_of(self.gpu).peak * self.mfu) / 3600 if self.gpu else None

    @property
    def hours(self) -> float | None:
        """Hours until it is finished, on all of its GPUs."""
        return None if self.gpu_hours is None else self.gpu_hours / self.engine.world

    @property
    def fits(self) -> bool | None:
        """Whether the peak of a process fits into the named GPU."""
        return self.memory.gpu <= gpu_of(self.gpu).gib * 2**30 if self.gpu else None


def estimate(
    shape: Shape,
    spec: FitSpec,
    lengths: Lengths,
    *,
    gpu: str | None = None,
    world: int | None = None,
    mfu: float = MFU,
) -> Cost:
    """The cost of training a model of this shape on examples of these lengths.

    `world`: processes, one for each GPU; default: those of the spec. Raises ValueError when no example is
    left, or for an unknown GPU, and FileNotFoundError for an unknown DeepSpeed configuration.
    """
    if gpu is not None:
        gpu_of(gpu)
    world = world or processes_of(spec)
    engine = Engine.of(spec.deepspeed, world)
    lengths = lengths.within(spec.max_length, spec.too_long)
    if not len(lengths):
        raise ValueError("no example is left to train on")
    steps, passes = volume(spec, len(lengths))
    return Cost(
        parameters=shape.parameters(),
        trained=sum(shape.trained(spec).values()),
        steps=steps,
        samples=round(passes * len(lengths)),
        tokens=round(passes * float(lengths.tokens.sum())),
        flops=passes * flops(shape, spec, lengths),
        memory=memory(shape, spec, engine, heaviest(shape, spec, lengths, engine.world)),
        disk=disk(shape, spec, engine),
        engine=engine,
        gpu=gpu,
        mfu=mfu,
    )


def flops(shape: Shape, spec: FitSpec, lengths: Lengths) -> float:
    """FLOPs of one pass over the examples, as `training.flops` counts them."""
    return float(per_example(shape, spec, lengths).sum())


def per_example(shape: Shape, spec: FitSpec, lengths: Lengths) -> np.ndarray:
    """FLOPs of training once on each example, float64 [n]."""
    return shape.sizes.training(
        lengths.tokens,
        lengths.labels,
        lengths.patches(shape),
        lengths.images,
        trained=[part for part in PARTS if fully_trained(spec, part)],
        lora=spec.lora.parts if spec.lora else (),
        rank=spec.lora.r if spec.lora else 0,
    )


def processes_of(spec: FitSpec) -> int:
    """Processes that a spec names, over all nodes; 1 where it leaves them to the machine."""
    return spec.nodes * (spec.processes or 1)


def volume(spec: FitSpec, count: int) -> tuple[int, float]:
    """(optimizer steps, passes over the examples), as `training.fit` counts them."""
    whole, rest = divmod(count, spec.batch_size)
    dropped = rest if spec.drop_last and whole else 0
    per_epoch = whole + (1 if rest and not dropped else 0)
    steps = spec.max_steps or math.ceil(spec.epochs * per_epoch)
    epochs, left = divmod(steps, per_epoch)
    seen = epochs * (count - dropped) + min(left * spec.batch_size, count)
    return steps, seen / count


def heaviest(shape: Shape, spec: FitSpec, lengths: Lengths, world: int) -> Forward:
    """The largest forward pass that a process may meet: a full pack, or the longest examples, padded."""
    cap, longest = spec.pack_tokens, lengths.longest(spec.max_length)
    micro = min(spec.micro_batch or math.ceil(spec.batch_size / world), len(lengths))
    columns = (lengths.labels, lengths.patches(shape))
    if cap is None:
        return Forward(micro * longest, *(int(np.sort(counts)[-micro:].sum()) for counts in columns))
    tokens, total = max(cap, longest), max(1, int(lengths.tokens.sum()))
    return Forward(tokens, *(math.ceil(tokens * int(counts.sum()) / total) for counts in columns))
