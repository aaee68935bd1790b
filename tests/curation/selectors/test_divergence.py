"""Counts that follow a target distribution: beside a search over all counts."""

import itertools
import math

import numpy as np
import pytest

from curation.selectors.primitives.divergence import follow


def divergence(counts, target):
    total = sum(counts)
    return sum(n / total * math.log(n / total / p) for n, p in zip(counts, target, strict=True) if n)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_counts_are_closer(seed):
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(2, 5))
    target, available = rng.dirichlet(np.ones(cells)), rng.integers(0, 6, cells) + (np.arange(cells) == 0)
    before = rng.integers(0, 4, cells)
    count = int(rng.integers(1, available.sum() + 1))
    found = follow(target, before, available, count)
    assert found.sum() == count and (found <= available).all()
    others = (
        each for each in itertools.product(*(range(n + 1) for n in available.tolist())) if sum(each) == count
    )
    best = min(divergence((before + each).tolist(), target) for each in others)
    assert divergence((before + found).tolist(), target) == pytest.approx(best, abs=1e-9)


def test_what_was_taken_before_counts():
    half = np.array([0.5, 0.5])
    assert follow(half, np.array([4, 0]), np.array([9, 9]), 4).tolist() == [0, 4]
    assert follow(half, np.array([0, 0]), np.array([9, 9]), 3).tolist() == [2, 1]
