"""Random projection of long vectors by a matrix of signs that is never stored in full.

The entries of the matrix P [D, dim] are +1 or -1 (Rademacher; Achlioptas 2003), and x is mapped to x P /
sqrt(dim). Inner products are preserved in expectation, with a standard error of at most sqrt((|u|^2 |v|^2 +
<u, v>^2) / dim). Each entry is one bit of SplitMix64 (Steele et al. 2014), addressed by seed, row and column
in integer arithmetic: the matrix is the same on every device, in every run and for every block size, and any
block of rows is generated when it is needed.
"""

import torch

BLOCK_ELEMENTS = 1 << 24
"""Signs held at once: 64 MB in float32."""

_MASK = (1 << 64) - 1
# Increment and multipliers of SplitMix64.
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Projection:
    """The projection of vectors of any length to `dim` dimensions, by the signs of one seed."""

    def __init__(self, dim: int, seed: int = 0, *, block_elements: int = BLOCK_ELEMENTS) -> None:
        if dim < 1 or seed < 0:
            raise ValueError(f"dim must be at least 1 and seed at least 0, got {dim} and {seed}")
        self.dim, self.seed = dim, seed
        self.words = -(-dim // 64)
        self.rows = max(1, block_elements // (64 * self.words))
        self._state = int(_mix(torch.tensor([_signed((seed + 1) * _GAMMA)])).item())
        # The eight signs of each byte, so that a lookup turns random bytes into signs.
        bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
        self._table = (2.0 * bits - 1.0).float()

    def signs(self, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Rows start..stop-1 of P: float32 [stop - start, dim] of +1 and -1."""
        counters = torch.arange(start * self.words + 1, stop * self.words + 1, device=device)
        random = _mix(counters * _signed(_GAMMA) + self._state).view(torch.uint8)
        if self._table.device != random.device:
            self._table = self._table.to(random.device)
        signs = torch.nn.functional.embedding(random.int(), self._table)
        return signs.view(stop - start, 64 * self.words)[:, : self.dim]

    def add(self, total: torch.Tensor, values: torch.Tensor, offset: int) -> None:
        """Add to `total` float32 [B, dim] the projection of `values` float32 [B, n].

        `values` are the components offset..offset+n-1 of each vector.
        """
        for start in range(0, values.shape[1], self.rows):
            block = values[:, start : start + self.rows]
            signs = self.signs(offset + start, offset + start + block.shape[1], values.device)
            total.addmm_(block, signs, alpha=self.dim**-0.5)


def _signed(value: int) -> int:
    """A 64-bit word as the signed integer of the same bits: torch computes with int64."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(z: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 on int64 words; products wrap around."""
    z = (z ^ _shift(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return z ^ _shift(z, 31)


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift: int64 shifts copy the sign bit, which is masked out."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
