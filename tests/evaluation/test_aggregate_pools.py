"""Comparison of arms over several pools, and with a baseline for each budget: values, tables, pictures."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from evaluation_data import TOY, bench, collected, compared, toy_suite, write_evaluation

from evaluation.results import ResultsError, Run
from evaluation.statistics.crossed import Arm, differences

pytestmark = pytest.mark.slow

BY_BUDGET = {"10%": "random_10", "30%": "random_30", "100%": "random_30"}
LEVEL = {"random_10": 0.3, "mmssr_10": 0.35, "random_30": 0.5, "mmssr_30": 0.45, "full": 0.8}
"""Score of each arm on pool 0 and seed 0; a later pool is 0.04 up, a later seed 0.01, and mmssr_10 gains 0.02
more a pool."""


def score(arm: str, pool: int, seed: int) -> float:
    return LEVEL[arm] + 0.04 * pool + 0.01 * seed + 0.02 * pool * (arm == "mmssr_10")


def budget(arm: str) -> str:
    return f"{arm.rpartition('_')[2]}%" if "_" in arm else "100%"


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    found = []
    for arm in LEVEL:
        for pool in range(3):
            for seed in range(1 if arm == "full" else 2):
                ones = round(1000 * score(arm, pool, seed))
                values = np.repeat([1.0, 0.0], [ones, 1000 - ones])
                path = write_evaluation(tmp_path / f"{arm}-{pool}-{seed}", {"t1": values, "t2": values})
                found.append(Run(arm, seed, seed, budget(arm), path, pool))
    return found


@pytest.fixture
def comparison(runs):
    return compared(runs, TOY, baseline=BY_BUDGET)


def test_means_are_over_pools_and_seeds(comparison):
    arm = comparison.arm("mmssr_10")
    each = [100 * score("mmssr_10", pool, seed) for pool in range(3) for seed in range(2)]
    assert comparison.pools == (0, 1, 2)
    assert (arm.units, arm.runs) == (6, 6) and arm.unit_means == pytest.approx(each)
    assert (arm.mean.mean, arm.mean.std) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert arm.pool_means == pytest.approx([35.5, 41.5, 47.5])
    assert arm.relative == pytest.approx(100 * np.mean(each) / 84)
    assert (arm.claim.scope, arm.claim.family) == ("over pools", 2)  # the full arm claims nothing


def test_each_budget_has_its_baseline(comparison):
    assert {arm.arm: arm.baseline for arm in comparison.arms} == {
        "random_10": None,
        "mmssr_10": "random_10",
        "random_30": None,
        "mmssr_30": "random_30",
        "full": "random_30",
    }
    assert comparison.baselines == ("random_10", "random_30")
    ours, theirs = comparison.arm("mmssr_10"), comparison.arm("mmssr_30")
    assert (ours.difference.value, theirs.difference.value) == pytest.approx((7.0, -5.0))
    assert ours.pool_differences == pytest.approx([5, 7, 9]) and theirs.pool_differences == pytest.approx(
        [-5, -5, -5]
    )
    assert (ours.above, theirs.above, comparison.arm("full").above) == (2, 0, 2)
    assert comparison.to_dict()["baseline"] == BY_BUDGET


def test_the_interval_has_the_pools_as_its_outermost_level(comparison):
    """mmssr_10 differs from pool to pool, mmssr_30 does not although its level does."""
    wide, narrow = comparison.arm("mmssr_10").difference, comparison.arm("mmssr_30").difference
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
    # Between pools s = 2 points, so t(2) * s / sqrt(3) = 4.97; the paired questions add a little.
    assert wide.stderr == pytest.approx(2 / np.sqrt(3), rel=0.15)
    # Of these 4 points squared, the two seeds of both arms (s = 0.71) explain 2 x 0.5 / 2.
    assert comparison.arm("mmssr_10").claim.components.pools == pytest.approx(np.sqrt(4 - 0.5))


def test_the_interval_is_in_points(tmp_path):
    """Both arms differ by exactly 0.2 on every question: the value and both ends are 20 points."""
    runs = [
        Run(arm, seed, 0, "1", write_evaluation(tmp_path / f"{arm}{seed}", {"t1": values, "t2": values}))
        for arm, level in (("random", 0.1), ("a", 0.3))
        for seed in range(2)
        for values in [level + np.linspace(0, 0.5, 30)]
    ]
    arm = compared(runs, TOY).arm("a")
    for interval in (arm.difference, *arm.benchmark_differences.values()):
        assert (interval.value, interval.low, interval.high) == pytest.approx((20, 20, 20), abs=1e-9)


def test_the_interval_is_that_of_the_statistics(tmp_path):
    rng = np.random.default_rng(0)
    values = {arm: [rng.random(40) for _ in range(2)] for arm in ("random", "a")}
    suite = toy_suite(bench("t1", "One", "ocr", scale=2.0))
    runs = [
        Run(arm, seed, 0, "1", write_evaluation(tmp_path / f"{arm}{seed}", {"t1": part}))
        for arm, parts in values.items()
        for seed, part in enumerate(parts)
    ]
    ours = compared(runs, suite).arm("a")
    sides = {arm: Arm([[50 * part] for part in values[arm]], [None, None]) for arm in values}
    expected = differences(sides, {"a": "random"}, [[""] * 40])["a"].difference
    for interval in (ours.difference, ours.benchmark_differences["t1"]):
        assert astuple(interval) == pytest.approx(astuple(expected))


def test_differences_by_benchmark(comparison):
    arm = comparison.arm("mmssr_10")
    assert set(arm.benchmark_differences) == {"t1", "t2"}
    assert [d.value for d in arm.benchmark_differences.values()] == pytest.approx([7.0, 7.0])
    assert comparison.arm("random_10").benchmark_differences == {}


def test_an_arm_without_a_baseline_of_its_budget_has_no_difference(runs):
    result = compared(runs, TOY, baseline={"10%": "random_10"})
    assert [arm.arm for arm in result.arms if arm.difference] == ["mmssr_10"]


def test_arms_on_different_pools_are_refused(runs):
    fewer = [run for run in runs if run.arm != "mmssr_30" or run.pool_seed != 2]
    with pytest.raises(
        ResultsError,
        match=r"'random_10' and 'mmssr_30' were run on different pools: \[0, 1, 2\] and \[0, 1\]",
    ):
        compared(fewer, TOY, baseline=BY_BUDGET)
    with pytest.raises(ResultsError, match="2 runs with the same seeds on pool 0"):
        compared([*runs, runs[0]], TOY)


def test_results_say_the_pool(runs):
    rows = collected(runs, TOY).to_pylist()
    assert {(r["arm"], r["pool_seed"]) for r in rows} == {(arm, pool) for arm in LEVEL for pool in range(3)}
    given = collected([replace(runs[0], pool_seed=None)], TOY)
    assert given["pool_seed"].null_count == len(given)


def test_one_pool_by_its_seed_is_the_comparison_without_pools(runs):
    one = [run for run in runs if run.pool_seed == 1]
    named, plain = (
        compared(some, TOY, baseline=BY_BUDGET)
        for some in (one, [replace(run, pool_seed=None) for run in one])
    )
    assert named.to_dict()["arms"] == plain.to_dict()["arms"]
