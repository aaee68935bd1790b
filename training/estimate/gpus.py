"""GPUs by name: the peak of their dense matrix units and the memory that a process can use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`tflops`: peak of dense bf16 products with fp32 sums, 10^12 FLOP/s. `gib`: usable memory in GiB."""

    tflops: float
    gib: float


GPUS = {
    "a100_40": Gpu(312, 39.4),
    "a100_80": Gpu(312, 79.2),
    "a800_80": Gpu(312, 79.2),
    "h100": Gpu(989, 79.2),
    "h200": Gpu(989, 139.8),
    "b200": Gpu(2250, 178.4),
    "l40s": Gpu(362, 44.4),
    "rtx3090": Gpu(71, 23.6),
    "rtx4090": Gpu(165, 23.5),
    "mi300x": Gpu(1307, 191.5),
}
"""Peaks are those of the makers' data sheets (SXM modules, without sparsity); memory is what is left of the
nominal size after the driver's own share, rounded down."""


def gpu_of(name: str) -> Gpu:
    """The GPU of one of the names GPUS. Raises ValueError."""
    if name not in GPUS:
        raise ValueError(f"gpu must be one of {', '.join(GPUS)}, got {name!r}")
    return GPUS[name]
