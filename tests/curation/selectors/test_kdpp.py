"""Samples of a k-DPP have the probabilities of its definition."""

import itertools
from collections import Counter

import numpy as np
import pytest

from curation.selectors.once_select import at_least_one
from curation.selectors.primitives.kdpp import MOST, RIDGE, sample


def test_every_subset_is_drawn_as_often_as_its_determinant_says():
    rng = np.random.default_rng(0)
    factors = rng.normal(0, 1, (5, 4))
    factors /= np.linalg.norm(factors, axis=1)[:, None]
    kernel = factors @ factors.T
    weights = {
        subset: np.linalg.det((kernel + RIDGE * np.eye(5))[np.ix_(subset, subset)])
        for subset in itertools.combinations(range(5), 3)
    }
    draws = 4000
    counts = Counter(tuple(sample(kernel, 3, rng.random(5)).tolist()) for _ in range(draws))
    expected = {subset: draws * weight / sum(weights.values()) for subset, weight in weights.items()}
    # chi-square with 9 degrees of freedom: above 27.9 once in 1,000 seeds
    assert sum((counts[subset] - mean) ** 2 / mean for subset, mean in expected.items()) < 27.9
    assert max(expected.values()) > 3 * min(expected.values())  # it is far from uniform


def test_copies_are_picked_last():
    vectors = np.eye(3)[[0, 0, 0, 1, 2]]
    found = [
        sample(vectors @ vectors.T, 3, np.random.default_rng(seed).random(5)).tolist() for seed in range(50)
    ]
    assert all(row[1:] == [3, 4] for row in found) and {row[0] for row in found} == {0, 1, 2}


@pytest.mark.parametrize("kernel", [np.ones((MOST, MOST)), np.eye(MOST)])
def test_the_largest_kernels_of_lowest_and_highest_rank_have_a_sample(kernel):
    found = sample(kernel, MOST // 2, np.random.default_rng(1).random(MOST))
    assert len(set(found.tolist())) == MOST // 2


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="k must be 0 to 2"):
        sample(np.eye(2), 3, np.zeros(2))


def test_quotas_are_at_least_one_while_the_budget_has_as_many():
    assert at_least_one(np.array([90, 9, 1]), 10).tolist() == [8, 1, 1]
    assert at_least_one(np.array([45, 35, 20]), 7).tolist() == [3, 3, 1]  # 3.15, 2.45, 1.4
    assert at_least_one(np.array([3, 5, 4]), 2).tolist() == [0, 1, 1]
