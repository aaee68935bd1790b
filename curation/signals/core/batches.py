"""Batches of samples of similar length, and the number of tokens computed for them, padding included.

Scoring may process samples in any order (results are written back by row), so lengths are sorted completely,
which leaves less padding than bucketing. The longest batch comes first, so that running out of memory shows
at the start.
"""

import numpy as np


def batches_by_count(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Arrays of indices, at most `batch_size` samples each, longest first; equal lengths keep their order."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches_by_tokens(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Arrays of indices of padded size (count x longest) at most `max_tokens`; a longer sample runs alone."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, int(max_tokens // max(lengths[order[start]], 1)))
        batches.append(order[start : start + size])
        start += size
    return batches


def padded_tokens(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    """Number of tokens computed for these batches, padding included."""
    return int(sum(len(batch) * lengths[batch].max() for batch in batches))
