"""The rows of a page: half picked and half dropped, each source with its share, the same for one seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.explore.sample import draw, shares


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.data())
def test_shares_are_whole_bounded_and_complete(sizes, data):
    sizes = np.array(sizes)
    count = data.draw(st.integers(0, int(sizes.sum())))
    got = shares(sizes, count)
    assert got.sum() == count and (got <= sizes).all() and (got >= 0).all()
    if count >= np.count_nonzero(sizes):
        assert (got[sizes > 0] >= 1).all()


def test_shares_are_proportional():
    assert shares(np.array([1000, 100, 10, 0]), 111).tolist() == [100, 10, 1, 0]


def test_small_strata_keep_one():
    assert shares(np.array([1000, 1, 1, 1000]), 11).tolist() == [5, 1, 1, 4]


def test_few_shares_go_to_the_largest():
    assert shares(np.array([5, 50, 500]), 2).tolist() == [0, 1, 1]


@pytest.mark.parametrize(("n_picked", "expected"), [(500, 50), (10, 10), (980, 80)])
def test_half_of_the_rows_are_picked_as_far_as_there_are(n_picked, expected):
    picked = np.arange(1000) < n_picked
    rows = draw(picked, np.arange(1000) % 3, 100, 0)
    assert len(np.unique(rows)) == 100 and (np.diff(rows) > 0).all()
    assert picked[rows].sum() == expected


def test_a_rare_source_is_there():
    sources = np.zeros(10_000, int)
    sources[[17, 9000]] = 1, 2
    picked = np.arange(10_000) < 5000
    rows = draw(picked, sources, 40, 0)
    assert {17, 9000} <= set(rows.tolist())


def test_the_seed_decides():
    picked, sources = np.arange(5000) % 4 == 0, np.arange(5000) % 7
    first, again, other = (draw(picked, sources, 100, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_a_small_pool_is_shown_as_a_whole():
    assert draw(np.zeros(5, bool), np.zeros(5, int), 5, 0).tolist() == [0, 1, 2, 3, 4]
