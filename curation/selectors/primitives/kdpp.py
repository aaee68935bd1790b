"""Exact samples of a k-DPP (Kulesza and Taskar 2011) that depend on nothing but the kernel and the noise.

Items are decided one after the other: each is in the sample with its probability given what was decided
before, a ratio of sums of principal minors. Unlike the usual sampler, which draws eigenvectors, this meets no
arbitrary basis where eigenvalues are equal (copies make many that are 0).
"""

import math

import numpy as np

RIDGE = 1e-6
"""Added to the diagonal: a kernel of lower rank than k (copies) has a sample too, of probability near 0."""
MOST = 128
"""Largest kernel; with the ridge, sums of minors of such kernels stay below the largest float64."""


def sample(kernel: np.ndarray, k: int, noise: np.ndarray) -> np.ndarray:
    """int64[k], ascending: a set S drawn with probability det(L_S) / sum of det(L_T) over all T of size k.

    kernel: float64[n, n], positive semidefinite with entries at most 1, n <= MOST; L is kernel + RIDGE · 1.
    noise: float64[n] in [0, 1), uniform. Probabilities come from eigenvalues, whose last bits differ between
    CPUs; they change a sample only where a noise is within about 1e-9 of its probability. Cost O(n^4).
    """
    n = len(kernel)
    if not 0 <= k <= n or n > MOST:
        raise ValueError(f"k must be 0 to {n}, and n at most {MOST}, got k={k}, n={n}")
    rest = kernel + RIDGE * np.eye(n)
    picks: list[int] = []
    total = _log_minors(rest, k)
    for at in range(n):
        left = k - len(picks)
        if left in (0, n - at):
            picks.extend(range(at, at + left))
            break
        own, across, others = rest[0, 0], rest[1:, 0], rest[1:, 1:]
        with_it = others - np.outer(across, across) / own
        inside = math.log(own) + _log_minors(with_it, left - 1)
        share = math.exp(min(inside - total, 0.0))
        if noise[at] < share:
            picks.append(at)
            rest, total = with_it, inside - math.log(own)
        else:
            rest, total = others, _log_minors(others, left)
    return np.array(picks, np.int64)


def _log_minors(kernel: np.ndarray, k: int) -> float:
    """Logarithm of the sum of all principal minors of size k: of the elementary symmetric polynomial."""
    if k == 0:
        return 0.0
    eigenvalues = np.maximum(np.linalg.eigvalsh(kernel), RIDGE)
    # divided by their geometric mean, or products of many would leave the range of float64
    middle = float(np.log(eigenvalues).mean())
    sums = np.zeros(k + 1)
    sums[0] = 1.0
    for value in np.exp(np.log(eigenvalues) - middle):
        sums[1:] += value * sums[:-1]
    return math.log(sums[k]) + k * middle
