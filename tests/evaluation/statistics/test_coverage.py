"""What intervals and words promise, held against experiments whose true difference is known.

2,000 experiments have a Monte-Carlo error of 0.5 % at a coverage of 95 %, 200 of 1.5 %.
"""

from dataclasses import replace

import numpy as np
import pytest
from drawn_experiments import World, claimed, coverage, draw, equivalent, grid, null_tables, power

from evaluation.comparison import Components
from evaluation.statistics.crossed import Arm, differences
from evaluation.statistics.power import smallest_effect

FAST = [name for at, name in enumerate(grid()) if at % 7 == 0]


def test_the_grid_has_every_setting():
    worlds = list(grid().values())
    assert len(worlds) == len(set(worlds)) == 64
    assert {world.pools for world in worlds} == {1, 3} and {world.seeds for world in worlds} == {3, 5}
    assert {world.pool_effect for world in worlds} == {0, 0.8}
    assert {world.benchmarks for world in worlds} == {1, 14}


def test_a_world_has_the_noise_that_it_says():
    """The variance seen in draws, of differences and of what the product estimates."""
    world = World(1, 5, 0.37, 1.67, stable=True)
    found, truth = draw(world, 400, seed=3)
    of_units = (world.unit**2 + world.base_unit**2 + 2 * world.answers**2) / 5
    expected = np.sqrt(of_units + world.questions**2)
    assert np.std(found.values - truth) == pytest.approx(expected, rel=0.12)
    assert np.sqrt(np.mean(found.error.scale**2)) == pytest.approx(expected, rel=0.12)


def test_draws_are_tested_as_real_runs_are():
    """A drawn experiment goes the way of `differences`: its interval is that of the share that is counted."""
    rng = np.random.default_rng(0)
    arms = {name: Arm([[rng.normal(0, 1, 300)] for _ in range(3)], [0] * 3) for name in "ab"}
    one = differences(arms, {"a": "b"}, [["all"] * 300])["a"]
    low, high = one.difference.low, one.difference.high
    assert (one.difference.corrected_low, one.difference.corrected_high) == (low, high)
    assert one.inside[0] > low and one.inside[1] < high


@pytest.mark.parametrize("name", FAST)
def test_few_experiments_are_covered_within_the_error_of_their_number(name):
    assert 93.5 - 4.5 <= coverage(grid()[name], 200) <= 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_setting_is_covered_and_so_is_their_mean():
    found = {name: coverage(world, 2000) for name, world in grid().items()}
    outside = {name: value for name, value in found.items() if not 93.5 <= value <= 98}
    assert not outside
    assert 94.5 <= np.mean(list(found.values())) <= 96.5


def test_few_tables_of_nulls_rarely_make_a_claim():
    for name in ("1 x 3, baseline 1 x 10", "15 x 1, baseline 15 x 1"):
        assert claimed(null_tables()[name], 19, 200) <= 5 + 4.6
        assert claimed(null_tables()[name], 19, 200, corrected=False) > 25


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", null_tables())
def test_tables_of_19_nulls_make_a_claim_in_5_percent_at_most(name):
    assert claimed(null_tables()[name], 19, 2000) <= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", null_tables())
def test_so_they_do_where_all_arms_are_noisier_than_their_baseline(name):
    """Within what 2,000 tables leave: twice the standard error of 5 %."""
    assert claimed(replace(null_tables()[name], unit=1.53), 19, 2000) <= 5 + 1


def test_an_arm_at_the_margin_is_rarely_called_equivalent():
    """And one without any difference often: the simulation could fail."""
    world = World(15, 1, pool_effect=0.3, stable=True)
    shifted = World(15, 1, pool_effect=0.3, stable=True, shift=1.0)
    assert equivalent(shifted, 1.0, 2000) <= 5 + 1.5
    assert equivalent(world, 1.0, 500) > 80


@pytest.mark.parametrize("pools, seeds", [(1, 5), (3, 5), (15, 1)])
def test_the_smallest_effect_is_found_with_the_power_that_it_has(pools, seeds):
    world = World(pools, seeds, pool_effect=0.8 if pools > 2 else 0.0)
    seen = Components(world.pool_effect, world.answers, world.answers, world.questions, world.answers)
    effect = smallest_effect(seen, pools, seeds, seeds, 1)
    shifted = World(pools, seeds, pool_effect=world.pool_effect, shift=effect)
    assert power(shifted, 2000) == pytest.approx(80, abs=3)
