"""Batches of similar length."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.signals.core.batches import batches_by_count, batches_by_tokens, padded_tokens

LENGTHS = st.lists(st.integers(1, 300), max_size=80).map(np.array)


@given(LENGTHS, st.integers(1, 20))
def test_batches_by_count_hold_every_sample_once(lengths, size):
    batches = batches_by_count(lengths, size)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert np.all(np.diff([lengths[i] for batch in batches for i in batch]) <= 0)


@given(LENGTHS, st.integers(1, 900))
def test_batches_by_tokens_hold_every_sample_once_within_the_budget(lengths, budget):
    batches = batches_by_tokens(lengths, budget)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * lengths[batch].max() <= budget or len(batch) == 1
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * lengths[batch[0]] > budget, "a batch has room for the next sample"
        assert lengths[batch].min() >= lengths[following].max()


def test_padded_tokens_count_the_longest_of_each_batch():
    lengths = np.array([10, 2, 8, 4])
    assert padded_tokens(lengths, batches_by_count(lengths, 2)) == 2 * 10 + 2 * 4
    assert padded_tokens(lengths, batches_by_count(lengths, 1)) == lengths.sum()


def test_a_full_sort_leaves_little_padding():
    """Lengths of samples with one image tile: 730 image tokens and log-normal text, as in LLaVA pools."""
    lengths = 730 + np.random.default_rng(0).lognormal(5, 0.8, 5000).astype(int)
    efficiency = lengths.sum() / padded_tokens(lengths, batches_by_tokens(lengths, 16_384))
    assert efficiency >= 0.97


@pytest.mark.parametrize("make", [batches_by_count, batches_by_tokens])
def test_a_size_below_one_is_refused(make):
    with pytest.raises(ValueError, match="at least 1"):
        make(np.array([1, 2]), 0)
