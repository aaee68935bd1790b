"""Means, standard deviations and weights against scipy."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evaluation.aggregate import _Units
from evaluation.statistics.basic import mean, std, stderr, unit_weights


def test_mean_std_stderr_against_scipy():
    x = np.random.default_rng(0).normal(3, 2, 17)
    assert mean(x) == pytest.approx(np.mean(x))
    assert std(x) == pytest.approx(scipy_stats.tstd(x))
    assert stderr(x) == pytest.approx(scipy_stats.sem(x))


def test_std_of_one_value_is_unknown_not_zero():
    assert math.isnan(std([1.0])) and math.isnan(stderr([1.0]))
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_two_values_have_a_standard_error():
    assert (std([1.0, 3.0]), stderr([1.0, 3.0])) == pytest.approx((math.sqrt(2), 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for few in ([], [1.0]):
            assert math.isnan(std(few)) and math.isnan(stderr(few))


def test_every_pool_has_the_same_weight_however_many_units_it_has():
    assert unit_weights([1, 1, 2]) == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert unit_weights([None] * 3) == pytest.approx([1 / 3] * 3)
    scores = [[np.zeros(2)], [np.zeros(2)], [np.ones(2)]]
    assert _Units([1, 1, 2], scores).benchmark_means() == [0.5]
