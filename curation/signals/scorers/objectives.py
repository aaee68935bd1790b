"""What Self-Filter and CoIDO minimise: the weights that scores give to losses, and terms of their own."""

from collections.abc import Iterator

import numpy as np
import torch

LEAST_LOG = -3.0
"""Lowest log s of CoIDO: without it log s2 falls for ever as the spread does (a reading)."""


class BatchWeights:
    """Self-Filter: weights B · softmax(s); weighted token losses over the labelled tokens of the batch."""

    def __call__(
        self, scores: torch.Tensor, counts: torch.Tensor, rows: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(weight of each sample / labelled tokens of the batch, no other terms)."""
        weights = len(scores) * scores.softmax(dim=0)
        return weights / counts.sum().clamp(min=1), scores.new_zeros(())

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """None."""
        return iter(())


class ImportanceAndDiversity(torch.nn.Module):
    """CoIDO: L_I / s1^2 + L_D / (2 s2^2) + log s1 + log s2, with w = softmax of the scores of a batch.

    L_I is the sum of w · mean token loss; L_D the spread ("variance" or "deviation") of the mean w of those
    clusters that the batch has. codes: [n], the cluster of each row of the pool.
    """

    def __init__(self, codes: np.ndarray, spread: str) -> None:
        super().__init__()
        self.codes, self.spread = codes, spread
        self.logs = torch.nn.Parameter(torch.zeros(2))

    def forward(
        self, scores: torch.Tensor, counts: torch.Tensor, rows: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(w / answer tokens / s1^2, the terms without losses)."""
        weights = scores.softmax(dim=0)
        importance, diversity = self.logs.clamp(min=LEAST_LOG)
        coefficients = weights / counts.clamp(min=1) * (-2 * importance).exp()
        spread = 0.5 * (-2 * diversity).exp() * self._spread(weights, rows)
        return coefficients, spread + importance + diversity

    def _spread(self, weights: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        found, inverse = np.unique(self.codes[rows], return_inverse=True)
        at = torch.from_numpy(inverse.reshape(-1)).to(weights.device)
        sizes = torch.bincount(at, minlength=len(found))
        means = weights.new_zeros(len(found)).index_add(0, at, weights) / sizes
        variance = (means - means.mean()).square().mean()
        # 1e-12: the root of 0 has no slope
        return (variance + 1e-12).sqrt() if self.spread == "deviation" else variance
