"""Hamming search: every pair within the radius and no other, whatever the hashes have in common."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup import hamming


def by_brute_force(a, b, radius):
    if b is None:
        i, j = np.triu_indices(len(a), 1)
    else:
        i, j = np.indices((len(a), len(b))).reshape(2, -1)
        b = b[j] if len(b) else b
    distance = [int(x ^ y).bit_count() for x, y in zip(a[i], a[j] if b is None else b, strict=True)]
    return {(int(x), int(y), d) for x, y, d in zip(i, j, distance, strict=True) if d <= radius}


def found(a, b, radius, **options):
    i, j, distance = hamming.pairs(a, b, radius, **options)
    triples = list(zip(i.tolist(), j.tolist(), distance.tolist(), strict=True))
    assert triples == sorted(set(triples))
    return set(triples)


def family(rng, n, varying=64, repeats=4):
    """Hashes around few centres, which differ in the lowest `varying` bits only."""
    centres = rng.integers(0, 1 << 63, max(1, n // repeats), dtype=np.uint64)
    noise = np.bitwise_and.reduce(rng.integers(0, 1 << 63, (5, n), dtype=np.uint64))
    noise &= np.uint64((1 << varying) - 1)
    return rng.choice(centres, n) ^ noise if varying == 64 else centres[0] ^ noise


SMALL = {"_CHOICE": 0.1, "_SORT": 1.0, "_COMPARE": 100.0, "_CROWDED": 16, "_BLOCK": 64}


@pytest.fixture
def banded(monkeypatch):
    """Small inputs are searched by bands, and buckets are soon crowded, as in a pool of millions."""
    for name, value in {
        "_CHOICE": 0.1,
        "_SORT": 1.0,
        "_COMPARE": 100.0,
        "_CROWDED": 16,
        "_BLOCK": 64,
    }.items():
        monkeypatch.setattr(hamming, name, value)


@pytest.mark.parametrize("radius", [0, 1, 4, 8, 12])
@pytest.mark.parametrize("varying", [64, 20, 9])
@pytest.mark.parametrize("other", [False, True])
def test_every_pair_and_no_other(banded, radius, varying, other):
    rng = np.random.default_rng(radius * 100 + varying)
    a = family(rng, 400, varying)
    b = a[rng.integers(0, 400, 90)] ^ np.uint64(5) if other else None
    expected = by_brute_force(a, b, radius)
    assert (expected or not radius) and found(a, b, radius) == expected


def test_bands_are_what_is_tested(banded):
    rng = np.random.default_rng(0)
    plan = hamming._plan(hamming.distinct(family(rng, 400)).values, None, 8)
    assert plan is not None and len(plan.widths) > 8


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, (1 << 64) - 1), max_size=40),
    st.lists(st.integers(0, 255), max_size=20),
    st.integers(0, 63),
)
def test_any_hashes(big, small, radius):
    a = np.array(big + small, np.uint64)
    b = np.array(small, np.uint64)
    assert found(a, None, radius) == by_brute_force(a, None, radius)
    assert found(a, b, radius) == by_brute_force(a, b, radius)


def test_equal_hashes_are_compared_once():
    """A hundred thousand flat pictures with one hash: 5e9 pairs, which are not looked at one by one."""
    a = np.full(100_000, 7, np.uint64)
    a[-1] = 6
    groups = hamming.distinct(a)
    assert groups.values.tolist() == [6, 7] and groups.counts.tolist() == [1, 99_999]
    i, j, distance = hamming.distinct_pairs(groups.values, None, 4)
    assert (i.tolist(), j.tolist(), distance.tolist()) == ([0], [1], [1])
    with pytest.raises(hamming.TooManyPairsError, match="4,999,950,000 pairs"):
        hamming.pairs(a, None, 4)


def test_a_family_of_hashes_is_not_compared_pair_by_pair():
    """40,000 documents that share half of their bits: searched by the other half."""
    rng = np.random.default_rng(1)
    a = rng.integers(0, 1 << 32, 40_000, dtype=np.uint64) | np.uint64(0xABCD << 40)
    plan = hamming._plan(a, None, 3)
    assert all(bit < 32 for bit in plan.order)
    started = time.process_time()
    i, j, _ = hamming.distinct_pairs(np.unique(a), None, 3)
    assert time.process_time() - started < 3  # pair by pair: 8e8 comparisons
    assert len(i) == len(j) > 0


def test_hashes_must_be_64_bits():
    with pytest.raises(TypeError, match=r"uint64\[n\], got int64\[2\]"):
        hamming.pairs(np.array([1, 2]), None, 3)
    with pytest.raises(ValueError, match="radius must be from 0 to 63"):
        hamming.pairs(np.array([1, 2], np.uint64), None, 64)
