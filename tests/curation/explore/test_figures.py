"""Counts that the page draws."""

import numpy as np
import pyarrow as pa

from curation.explore.figures import BINS, by_source, histogram, numbers


def test_sources_are_counted_by_fate():
    told = by_source(np.array([0, 1, 1, 2]), ["a", "b", "c"], np.array([True, True, False, False]))
    assert [(own["picked"], own["dropped"]) for own in told] == [(1, 0), (1, 1), (0, 1)]


def test_few_whole_numbers_have_a_bar_each():
    told = histogram(np.array([0, 5, 5, 2, np.nan]), np.array([True, True, False, False, True]))
    assert told == {"missing": 1, "values": [0, 2, 5], "picked": [1, 0, 1], "dropped": [0, 1, 1]}


def test_every_number_is_in_a_bin():
    values = np.append(np.random.default_rng(0).normal(size=1000), [1e9, -1e9, np.inf])
    picked = np.arange(1003) % 3 == 0
    told = histogram(values, picked)
    assert len(told["edges"]) == BINS + 1 and told["missing"] == 1
    assert sum(told["picked"]) + sum(told["dropped"]) == 1002
    assert sum(told["picked"]) == picked[:-1].sum()
    assert -10 < told["edges"][0] < told["edges"][-1] < 10, "two outliers do not squeeze the others"


def test_a_column_of_one_value_but_for_outliers():
    told = histogram(np.append(np.full(10_000, 0.5), [7.25]), np.zeros(10_001, bool))
    assert sum(told["dropped"]) == 10_001 and told["edges"][-1] == 7.25


def test_a_column_without_a_value():
    assert histogram(np.array([np.nan]), np.array([True]))["missing"] == 1


def test_null_is_no_number():
    assert np.isnan(numbers(pa.chunked_array([[1, None, 3]]))[1])
    assert numbers(pa.chunked_array([[True, False]])).tolist() == [1, 0]
