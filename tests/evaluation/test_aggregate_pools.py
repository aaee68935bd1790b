"""Comparison of arms over several pools, and with a baseline for each budget: values, tables, pictures."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_data import TOY, bench, toy_suite, write_evaluation
from PIL import Image

from evaluation.aggregate import ResultsError, Run, collect, compare
from evaluation.context import Context, Subset
from evaluation.figures.comparison import draw_all, draw_differences
from evaluation.report.markdown import render
from evaluation.report.tables import compact_table, pool_table
from evaluation.statistics.basic import paired_bootstrap

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
    return compare(runs, TOY, baseline=BY_BUDGET)


def test_means_are_over_pools_and_seeds(comparison):
    arm = comparison.arm("mmssr_10")
    each = [100 * score("mmssr_10", pool, seed) for pool in range(3) for seed in range(2)]
    assert comparison.pools == (0, 1, 2)
    assert (arm.units, arm.runs) == (6, 6) and arm.unit_means == pytest.approx(each)
    assert (arm.mean.mean, arm.mean.std) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert arm.pool_means == pytest.approx([35.5, 41.5, 47.5])
    assert arm.relative == pytest.approx(100 * np.mean(each) / 84)
    assert arm.p is None


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
    # Between pools s = 2 points, so t(2) * s / sqrt(3) = 4.97; seeds and the paired questions add a little.
    assert (wide.high - wide.low) / 2 == pytest.approx(4.97, rel=0.15)


def test_the_interval_is_printed_in_points(tmp_path):
    """Both arms differ by exactly 0.2 on every question: the value and both ends are 20 points."""
    runs = [
        Run(arm, seed, 0, "1", write_evaluation(tmp_path / f"{arm}{seed}", {"t1": values, "t2": values}))
        for arm, level in (("random", 0.1), ("a", 0.3))
        for seed in range(2)
        for values in [level + np.linspace(0, 0.5, 30)]
    ]
    arm = compare(runs, TOY).arm("a")
    for interval in (arm.difference, *arm.benchmark_differences.values()):
        assert (interval.value, interval.low, interval.high) == pytest.approx((20, 20, 20), abs=1e-9)
    row = cells(compact_table(compare(runs, TOY)))["a"]
    assert "+20.0 [+20.0, +20.0]" in row


def test_both_ends_of_the_interval_are_those_of_the_bootstrap(tmp_path):
    rng = np.random.default_rng(0)
    values = {arm: [rng.random(40) for _ in range(2)] for arm in ("random", "a")}
    suite = toy_suite(bench("t1", "One", "ocr", scale=2.0))
    runs = [
        Run(arm, seed, 0, "1", write_evaluation(tmp_path / f"{arm}{seed}", {"t1": part}))
        for arm, parts in values.items()
        for seed, part in enumerate(parts)
    ]
    ours = compare(runs, suite, resamples=300, seed=4).arm("a")
    sides = [[[part] for part in values[arm]] for arm in ("a", "random")]
    raw = paired_bootstrap(*sides, scale=[2.0], resamples=300, seed=4)
    expected = (100 * raw.value, 100 * raw.low, 100 * raw.high)
    for interval in (ours.difference, ours.benchmark_differences["t1"]):
        assert (interval.value, interval.low, interval.high) == pytest.approx(expected)


def test_differences_by_benchmark(comparison):
    arm = comparison.arm("mmssr_10")
    assert set(arm.benchmark_differences) == {"t1", "t2"}
    assert [d.value for d in arm.benchmark_differences.values()] == pytest.approx([7.0, 7.0])
    assert comparison.arm("random_10").benchmark_differences == {}


def test_an_arm_without_a_baseline_of_its_budget_has_no_difference(runs):
    result = compare(runs, TOY, baseline={"10%": "random_10"})
    assert [arm.arm for arm in result.arms if arm.difference] == ["mmssr_10"]


def test_arms_on_different_pools_are_refused(runs):
    fewer = [run for run in runs if run.arm != "mmssr_30" or run.pool_seed != 2]
    with pytest.raises(
        ResultsError,
        match=r"'random_10' and 'mmssr_30' were run on different pools: \[0, 1, 2\] and \[0, 1\]",
    ):
        compare(fewer, TOY, baseline=BY_BUDGET)
    with pytest.raises(ResultsError, match="2 runs with the same seeds on pool 0"):
        compare([*runs, runs[0]], TOY)


def test_results_say_the_pool(runs):
    rows = collect(runs, TOY).to_pylist()
    assert {(r["arm"], r["pool_seed"]) for r in rows} == {(arm, pool) for arm in LEVEL for pool in range(3)}
    given = collect([replace(runs[0], pool_seed=None)], TOY)
    assert given["pool_seed"].null_count == len(given)


def test_one_pool_by_its_seed_is_the_comparison_without_pools(runs):
    one = [run for run in runs if run.pool_seed == 1]
    named, plain = (
        compare(some, TOY, baseline=BY_BUDGET)
        for some in (one, [replace(run, pool_seed=None) for run in one])
    )
    assert named.arms == plain.arms and named.arm("mmssr_10").p is not None


# ------------------------------------------------------------------------------- tables and pictures


def cells(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_table_by_pool(comparison, runs):
    table = cells(pool_table(comparison))
    assert table["arm"] == [
        "budget",
        "pool 0 (difference)",
        "pool 1 (difference)",
        "pool 2 (difference)",
        "std of means",
        "std of differences",
    ]
    assert table["mmssr_10"] == ["10%", "35.5 (+5.0)", "41.5 (+7.0)", "47.5 (+9.0)", "6.0", "2.0"]
    assert table["random_30"] == ["30%", "50.5", "54.5", "58.5", "4.0", "–"]
    assert pool_table(compare([run for run in runs if run.pool_seed == 0], TOY)) == ""
    two = cells(pool_table(compare([run for run in runs if run.pool_seed < 2], TOY, baseline=BY_BUDGET)))
    assert two["mmssr_10"] == ["10%", "35.5 (+5.0)", "41.5 (+7.0)", "4.2", "1.4"]


def test_report_names_the_baseline_of_each_arm(comparison):
    text = render(comparison, Context(title="study"))
    assert (
        "**mmssr_10** (10%) is above **random_10** (10%): 41.5 against 34.5, difference +7.0 points" in text
    )
    assert "**mmssr_30** (30%) is below **random_30** (30%)" in text
    assert "difference to the baseline of its budget [95 %]" in compact_table(comparison)
    assert "repeated on 3 pools" in text and pool_table(comparison) in text


def test_subsets_are_means_over_pools_and_seeds(comparison):
    subsets = [
        Subset("a", seed, 10 + pool, 100 * seed, None, {"defect": {"wrong": 0.1 * pool}}, pool)
        for pool in range(3)
        for seed in range(2)
    ]
    text = render(
        comparison, Context(title="study", subsets=subsets, overlap={("a", "b"): 0.25, ("b", "a"): 0.5})
    )
    assert "| a | 6 | 11 | 50 | – |" in text and "| wrong | 10.0 % |" in text
    assert "| a | – | 25.0 % |\n| b | 50.0 % | – |" in text


def test_differences_are_drawn_for_the_arms_that_have_a_baseline(comparison, tmp_path):
    path = draw_differences(comparison, tmp_path / "d.png")
    again = draw_differences(comparison, tmp_path / "e.png")
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert path.read_bytes() == again.read_bytes()
    blue, red = ((picture[..., k] - picture[..., 2 - k] > 40).mean() for k in (2, 0))
    assert blue > 0.02 and red > 0.02  # gains and losses


def test_many_arms_are_drawn_without_bars_by_benchmark(tmp_path):
    runs = [
        Run(f"arm{k}", 0, 0, "1", write_evaluation(tmp_path / str(k), {b.name: np.ones(5) for b in TOY}))
        for k in range(12)
    ]
    names = [
        path.name for path in draw_all(compare(runs, TOY, reference=None, baseline="arm1"), tmp_path / "out")
    ]
    assert names == ["means.png", "differences.png"]
