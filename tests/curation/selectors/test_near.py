"""The search for near neighbours finds what the search of all pairs finds, above its bound."""

import numpy as np
import pytest

from curation.selectors.contract import SizeError
from curation.selectors.primitives.cosine import lookup
from curation.selectors.primitives.graph import nearest
from curation.selectors.primitives.near import nearest_above


def table(seed, n, spread):
    """Vectors around five directions, with equal and zero ones."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (5, 12))
    vectors = centres[rng.integers(0, 5, n)] + rng.normal(0, spread, (n, 12))
    vectors[rng.random(n) < 0.2] = vectors[0]
    vectors[rng.random(n) < 0.05] = 0
    return lookup(vectors.astype(np.float16)), rng.integers(0, 3, n)


@pytest.mark.parametrize("least", [0.0, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("spread", [0.02, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_it_finds_the_near_ones_of_the_nearest(least, spread, grouped):
    units, codes = table(round(100 * least), 700, spread)
    rows, codes = np.arange(700), codes if grouped else None
    every, found = nearest(rows, units, 4, codes), nearest_above(rows, units, 4, least, codes)
    near = (every.neighbours >= 0) & (every.cosine >= least)
    np.testing.assert_array_equal(found.neighbours, np.where(near, every.neighbours, -1))
    np.testing.assert_array_equal(found.cosine, np.where(near, every.cosine, 0))


def test_a_group_of_one_has_no_neighbour_and_a_huge_one_is_refused(monkeypatch):
    units, _ = table(0, 3, 1.0)
    alone = nearest_above(np.arange(3), units, 2, 0.0, np.arange(3))
    assert (alone.neighbours == -1).all()
    monkeypatch.setattr("curation.selectors.primitives.graph.ROW_LIMIT", 2)
    with pytest.raises(SizeError, match="within"):
        nearest_above(np.arange(3), units, 2, 0.0)
