import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.packing import PackRule, bound, micro_steps_needed, pack

LAYOUTS = [(1, 1), (2, 1), (3, 2), (8, 2), (16, 4)]


def examples_of(plan):
    return sorted(i for micro in plan.packs for own in micro for i in own)


def sizes(seed, count):
    """Lengths like a mixture's: log-normal, cut at 8,192 tokens; costs linear with a quadratic part."""
    lengths = np.random.default_rng(seed).lognormal(7.0, 1.0, count).astype(int).clip(8, 8192)
    return lengths, lengths * (1 + lengths / 30_000)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 9),
)
def test_every_example_is_in_one_pack_within_the_cap(lengths, layout, seed):
    world, micro_steps = layout
    lengths = np.array(lengths)
    costs = np.random.default_rng(seed).random(len(lengths)) * lengths
    cap = max(100, int(2 * lengths.sum() / (world * micro_steps)) + 400)
    plan = pack(lengths, costs, world, micro_steps, cap)
    assert examples_of(plan) == list(range(len(lengths)))
    assert len(plan.packs) == micro_steps and all(len(micro) == world for micro in plan.packs)
    for micro, loads in zip(plan.packs, plan.loads, strict=True):
        for own, load in zip(micro, loads, strict=True):
            assert len(own) <= 1 or lengths[own].sum() <= cap
            assert load == pytest.approx(costs[own].sum())
    assert plan.time >= bound(costs, world) * (1 - 1e-9)


def test_a_plan_depends_on_its_arguments_alone():
    lengths, costs = sizes(0, 256)
    first, again = (pack(lengths, costs, 16, 2, 30_000) for _ in range(2))
    assert first.packs == again.packs


def test_an_example_longer_than_the_cap_is_alone():
    lengths = np.array([50, 9000, 60, 70])
    plan = pack(lengths, lengths.astype(float), 2, 1, cap=500)
    assert sorted(plan.packs[0]) == [[0, 2, 3], [1]]


def test_too_many_tokens_are_refused_with_the_number_of_packs():
    with pytest.raises(ValueError, match="need 5 packs of 100 tokens, but 2 ranks x 2 micro-steps are 4"):
        pack(np.full(5, 60), np.ones(5), 2, 2, cap=100)
    assert micro_steps_needed([np.arange(5)], np.full(5, 60), 2, 100) == 3
    assert micro_steps_needed([], np.full(5, 60), 2, 100) == 1


def test_a_step_that_fits_only_when_packed_tightly_is_packed():
    lengths = np.array([60, 60, 40, 40])  # by cost alone, both dear ones would share a pack with no cheap one
    costs = np.array([1.0, 1.0, 50.0, 50.0])
    plan = pack(lengths, costs, 2, 1, cap=100)
    assert all(lengths[own].sum() == 100 for own in plan.packs[0])
    tight = np.array([51, 49, 34, 33, 33])
    plan = pack(tight, np.array([9.0, 1.0, 8.0, 7.0, 6.0]), 2, 1, cap=100)
    assert examples_of(plan) == [0, 1, 2, 3, 4] and all(tight[own].sum() <= 100 for own in plan.packs[0])


def test_the_bound_is_below_every_assignment_and_reached_when_crowding_decides():
    rng = np.random.default_rng(1)
    for count in (1, 3, 5, 7):
        costs = rng.random(count) ** 2
        best = min(np.bincount(owner, costs, 3).max() for owner in itertools.product(range(3), repeat=count))
        assert bound(costs, 3) <= best + 1e-12
    # Three ranks with five examples of 10: two of them are on one rank, whatever the mean of 16.7 says.
    assert bound(np.full(5, 10.0), 3) == 20
    assert bound(np.array([90.0, 10, 10]), 3) == 90
    assert bound(np.zeros(0), 3) == 0


@pytest.mark.parametrize(("count", "world", "micro_steps", "cap"), [(256, 64, 1, 32768), (512, 64, 2, 16384)])
def test_packs_come_close_to_the_bound(count, world, micro_steps, cap):
    reached = best = 0.0
    for seed in range(8):
        lengths, costs = sizes(seed, count)
        reached += pack(lengths, costs, world, micro_steps, cap).time
        best += bound(costs, world)
    assert best / reached >= 0.97


def test_a_giant_does_not_make_others_wait_in_each_micro_step():
    lengths = np.array([4000] + [500] * 40)
    plan = pack(lengths, lengths.astype(float), 4, 2, cap=4000)
    assert plan.balance > 0.95  # equal packs of 3,000 are impossible: the giant alone has 4,000
    assert plan.time <= 6100


def test_unused_micro_steps_are_fillers_and_cost_what_they_cost():
    lengths, costs = np.array([10, 11, 12, 13]), np.array([10.0, 11, 12, 13])
    plan = pack(lengths, costs, 4, 2, cap=100, filler=1.0)
    assert plan.packs[1] == [[], [], [], []] and all(len(own) == 1 for own in plan.packs[0])


def test_a_rule_packs_indices_and_checks_itself():
    rule = PackRule(np.array([5, 6, 7, 8]), np.array([5.0, 6, 7, 8]), 100)
    plan = rule.pack(np.array([1, 3]), 2, 1)
    assert examples_of(plan) == [0, 1]
    with pytest.raises(ValueError, match="4 lengths, but 3 costs"):
        PackRule(np.ones(4), np.ones(3), 10)
    with pytest.raises(ValueError, match="pack_tokens must be positive"):
        PackRule(np.ones(4), np.ones(4), 0)
