"""Claims that hold at once: the level of each single test of a family.

The family is all arms of a comparison that are tested against a baseline, of any budget, controls included.
"""

import numpy as np
from numpy.typing import NDArray


def per_comparison(alpha: float, tests: int) -> float:
    """The two-sided level of each of `tests` such that all hold at once with probability 1 - `alpha`.

    1 - (1 - alpha)^(1 / tests). Sidak (1967) proved it for normal differences whatever they share, as a
    baseline: what is shared makes false claims come together, and so rarer. That it holds for these intervals
    too, where few repetitions of a baseline are shared as well, is simulated (tests/benchmarks/RESULTS.md,
    "Statistics"). It is a single step, so the corrected interval excludes 0 exactly where the corrected p is
    below alpha; a step-down procedure (Holm) has no intervals that agree with its verdicts.
    """
    return float(-np.expm1(np.log1p(-alpha) / tests))


def adjusted(p: NDArray[np.float64], tests: int) -> NDArray[np.float64]:
    """float64[n]: the p of each that holds for all `tests` at once, 1 - (1 - p)^tests."""
    return -np.expm1(tests * np.log1p(-np.minimum(p, 1 - 1e-16)))
