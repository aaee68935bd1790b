"""GPUs by name: what they could compute at most, and the memory that a process can use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`device`: its name in `training.flops.PEAKS`. `gib`: memory that a process can use, in GiB."""

    device: str
    gib: float

    @property
    def peak(self) -> float:
        """FLOP/s of dense bf16 products at most."""
        from training.flops import PEAKS  # loads numpy, which a recipe or --help does not need

        return PEAKS[self.device]


GPUS = {
    "a100_40": Gpu("A100", 39.4),
    "a100_80": Gpu("A100", 79.2),
    "h100": Gpu("H100", 79.2),
    "h200": Gpu("H200", 139.8),
    "b200": Gpu("B200", 178.4),
    "l40s": Gpu("L40S", 44.4),
    "l4": Gpu("L4", 22.0),
    "rtx4090": Gpu("RTX 4090", 23.5),
}
"""Memory is what is left of the nominal size after the driver's own share, rounded down."""


def gpu_of(name: str) -> Gpu:
    """The GPU of one of the names GPUS. Raises ValueError."""
    if name not in GPUS:
        raise ValueError(f"gpu must be one of {', '.join(GPUS)}, got {name!r}")
    return GPUS[name]
