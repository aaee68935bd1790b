"""Statistics against closed forms and scipy."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evaluation.aggregate import _Units
from evaluation.statistics import basic as stats
from evaluation.statistics.basic import (
    PairedBootstrap,
    grand_mean,
    mean,
    paired_bootstrap,
    std,
    stderr,
    unit_weights,
    welch,
)


def test_mean_std_stderr_against_scipy():
    x = np.random.default_rng(0).normal(3, 2, 17)
    assert mean(x) == pytest.approx(np.mean(x))
    assert std(x) == pytest.approx(scipy_stats.tstd(x))
    assert stderr(x) == pytest.approx(scipy_stats.sem(x))


def test_std_of_one_value_is_unknown_not_zero():
    assert math.isnan(std([1.0])) and math.isnan(stderr([1.0]))
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_welch_against_scipy():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, 5), rng.normal(1, 3, 8)
    ours, theirs = welch(x, y), scipy_stats.ttest_ind(x, y, equal_var=False)
    assert (ours.t, ours.df, ours.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))


@pytest.mark.parametrize(
    "a, b",
    [([1.0], [2.0, 3.0]), ([2.0, 3.0], [1.0]), ([1.0], [2.0]), ([], [1.0, 2.0]), ([1.0, 1.0], [2.0, 2.0])],
)
def test_welch_without_variance_or_with_one_value_is_unknown(a, b):
    """None of the three values, and no warning of a division by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = welch(a, b)
    assert math.isnan(result.t) and math.isnan(result.df) and math.isnan(result.p)


def test_welch_of_two_values_against_one_without_variance():
    ours, theirs = (
        welch([1.0, 2.0], [3.0, 3.0]),
        scipy_stats.ttest_ind([1, 2], [3, 3 + 1e-7], equal_var=False),
    )
    assert (ours.t, ours.df, ours.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-5)


def test_welch_of_equal_variances_is_known():
    ours = welch([1.0, 2.0], [3.0, 4.0])
    assert (ours.t, ours.df) == pytest.approx((-2 / math.sqrt(0.5), 2))


def test_two_values_have_a_standard_error():
    assert (std([1.0, 3.0]), stderr([1.0, 3.0])) == pytest.approx((math.sqrt(2), 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for few in ([], [1.0]):
            assert math.isnan(std(few)) and math.isnan(stderr(few))


def _half_width(interval) -> float:
    return (interval.high - interval.low) / 2


def test_bootstrap_of_questions_alone_matches_the_closed_form():
    rng = np.random.default_rng(2)
    a, b = [[rng.random(200), rng.random(300)]], [[rng.random(200), rng.random(300)]]
    variance = sum(np.var(x - y, ddof=1) / len(x) for x, y in zip(a[0], b[0], strict=True)) / 4
    interval = paired_bootstrap(a, b, resamples=20_000)
    assert interval.value == pytest.approx(np.mean([(x - y).mean() for x, y in zip(a[0], b[0], strict=True)]))
    assert _half_width(interval) == pytest.approx(1.96 * math.sqrt(variance), rel=0.03)


def test_bootstrap_of_seeds_alone_has_the_unbiased_variance():
    rng = np.random.default_rng(3)
    seeds_a, seeds_b = rng.random(6), rng.random(8)
    a, b = [[np.full(50, s)] for s in seeds_a], [[np.full(50, s)] for s in seeds_b]
    variance = np.var(seeds_a, ddof=1) / 6 + np.var(seeds_b, ddof=1) / 8
    assert _half_width(paired_bootstrap(a, b, resamples=20_000)) == pytest.approx(
        1.96 * math.sqrt(variance), rel=0.04
    )


def test_questions_are_shared_so_that_a_common_difficulty_cancels():
    rng = np.random.default_rng(4)
    difficulty = rng.random(100)
    interval = paired_bootstrap([[difficulty + 0.1]], [[difficulty]])
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))


def test_interval_of_equal_arms_covers_zero_about_as_often_as_promised():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        skill = rng.random(120)
        arms = [
            [[(rng.random(120) < np.clip(skill + rng.normal(0, 0.02), 0, 1)).astype(float)] for _ in range(4)]
            for _ in range(2)
        ]
        interval = paired_bootstrap(*arms, resamples=300, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert 0.85 <= covered / 200 <= 0.995


def test_bootstrap_is_deterministic_in_its_seed_and_level_widens_it():
    rng = np.random.default_rng(6)
    a, b = [[rng.random(40)] for _ in range(3)], [[rng.random(40)] for _ in range(3)]
    assert paired_bootstrap(a, b, seed=1) == paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)
    assert _half_width(paired_bootstrap(a, b, level=0.99)) > _half_width(paired_bootstrap(a, b, level=0.8))


def test_scale_brings_benchmarks_to_one_unit():
    a, b = [[np.full(4, 1400.0), np.full(4, 0.5)]], [[np.full(4, 700.0), np.full(4, 0.5)]]
    assert paired_bootstrap(a, b, scale=[2800.0, 1.0]).value == pytest.approx(0.125)
    assert grand_mean(a, [2800.0, 1.0]) == pytest.approx(0.5)


def test_the_interval_is_in_the_unit_of_the_scale():
    """A benchmark in 0..100 gives the interval of the same benchmark in 0..1."""
    rng = np.random.default_rng(10)
    a, b = [[rng.random(50), rng.random(40)] for _ in range(3)], [[rng.random(50), rng.random(40)]]
    plain = paired_bootstrap(a, b, seed=3)
    scaled = paired_bootstrap(
        [[x, 100 * y] for x, y in a], [[x, 100 * y] for x, y in b], scale=[1.0, 100.0], seed=3
    )
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_the_default_seed_is_0():
    rng = np.random.default_rng(11)
    a, b = [[rng.random(20)]], [[rng.random(20)]]
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b, seed=0) != paired_bootstrap(a, b, seed=1)


def test_different_questions_are_refused():
    with pytest.raises(ValueError, match="different numbers of questions"):
        paired_bootstrap([[np.zeros(3)]], [[np.zeros(4)]])
    for a, b in (([], [[np.zeros(4)]]), ([[np.zeros(4)]], [])):
        with pytest.raises(ValueError, match="without runs"):
            paired_bootstrap(a, b)
    for unit in ([], [np.zeros(0)], [np.zeros(3), np.zeros(0)]):
        with pytest.raises(ValueError, match="no benchmarks, or a benchmark without questions"):
            paired_bootstrap([unit], [unit])


# ------------------------------------------------------------------------------- many questions, many arms


def _ends(interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def test_memory_does_not_grow_with_the_questions():
    """A matrix of all 400 resamples of 50,000 questions takes 160 MB, twice that while it is multiplied."""
    rng = np.random.default_rng(14)
    a, b = [[rng.random(50_000)] for _ in range(3)], [[rng.random(50_000)] for _ in range(3)]
    tracemalloc.start()
    try:
        interval = paired_bootstrap(a, b, resamples=400)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64e6
    variance = np.var(np.mean(a, axis=0) - np.mean(b, axis=0), ddof=1) / 50_000
    assert interval.high - interval.low > 1.96 * math.sqrt(variance)


def test_blocks_do_not_change_what_is_drawn(monkeypatch):
    rng = np.random.default_rng(15)
    a, b = ([[rng.random(60), rng.random(50)] for _ in range(2)] for _ in range(2))
    strata = [list("abc") * 20, ["x"] * 50]
    whole = paired_bootstrap(a, b, strata=strata, resamples=101)
    for rows in (1, 7, 100):
        monkeypatch.setattr(stats, "BLOCK_BYTES", 16 * 20 * rows)
        blocks = paired_bootstrap(a, b, strata=strata, resamples=101)
        assert _ends(blocks) == pytest.approx(_ends(whole), abs=1e-14)


def test_a_resample_draws_the_same_number_from_each_stratum():
    """The sums of indicator scores are counts: of 4 and 9 units, 3 and 8 are drawn, shares 4/13 and 9/13."""
    strata = list("abbabbabbabbb")
    in_a = np.array([float(name == "a") for name in strata])
    means = stats._means_of_drawn(np.random.default_rng(0), [in_a, 1 - in_a], strata, 50)
    assert means == pytest.approx(np.outer([4 / 13, 9 / 13], np.ones(50)))
    draws = np.random.default_rng(1).multinomial(12, np.full(13, 1 / 13), size=50)
    one = stats._means_of_drawn(np.random.default_rng(1), [np.arange(13.0)], [0] * 13, 50)
    assert one[0] == pytest.approx(draws @ np.arange(13) / 12)


def test_arms_drawn_together_have_the_intervals_of_each_pair():
    rng = np.random.default_rng(16)
    pools = {"a": [0, 0, 1, 1], "b": [1, 0, 0], "c": [0, 1]}
    arms = {name: [[rng.random(30), rng.random(40)] for _ in own] for name, own in pools.items()}
    settings = {"strata": [list("abc") * 10, ["x"] * 40], "resamples": 200, "seed": 3}
    scale = [2.0, 1.0]
    drawn = PairedBootstrap.of(arms, pools=pools, scale=scale, **settings)
    for x, y in (("a", "b"), ("c", "b"), ("a", "c"), ("a", "b")):
        alone = paired_bootstrap(arms[x], arms[y], pools=(pools[x], pools[y]), scale=scale, **settings)
        assert _ends(drawn.difference(x, y)) == pytest.approx(_ends(alone), abs=1e-14)
        wide = paired_bootstrap(
            arms[x], arms[y], pools=(pools[x], pools[y]), scale=scale, level=0.99, **settings
        )
        assert _ends(drawn.difference(x, y, 0.99)) == pytest.approx(_ends(wide), abs=1e-14)


@pytest.mark.parametrize("benchmarks", [1, 3])
def test_the_draws_of_the_first_benchmark_begin_those_of_all(monkeypatch, benchmarks):
    rng = np.random.default_rng(17)
    arms = {name: [[rng.random(30 + k) for k in range(benchmarks)] for _ in range(3)] for name in "ab"}
    plain = PairedBootstrap.of(arms, scale=[3.0] * benchmarks, resamples=50)
    first = PairedBootstrap.of(
        {name: [unit[:1] for unit in arm] for name, arm in arms.items()}, scale=[3.0], resamples=50
    )
    before, drawn = _ends(first.difference("a", "b")), []
    real = stats._means_of_drawn
    monkeypatch.setattr(stats, "_means_of_drawn", lambda *given: drawn.append(1) or real(*given))
    again = PairedBootstrap.of(arms, scale=[3.0] * benchmarks, resamples=50, first=first)
    assert len(drawn) == benchmarks - 1
    assert _ends(again.difference("a", "b")) == pytest.approx(_ends(plain.difference("a", "b")), abs=1e-14)
    assert _ends(first.difference("a", "b")) == before


# ------------------------------------------------------------------------------------------ several pools


def _constant_units(pools, seeds):
    """Units without question noise from float64[pools, seeds]: (units, their pools)."""
    return [[np.full(2, value)] for row in seeds for value in row], [
        pool for pool, row in zip(pools, seeds, strict=True) for _ in row
    ]


def test_one_pool_is_the_interval_without_pools():
    rng = np.random.default_rng(7)
    a, b = (
        [[rng.random(40), rng.random(30)] for _ in range(3)],
        [[rng.random(40), rng.random(30)] for _ in range(4)],
    )
    plain = paired_bootstrap(a, b, seed=5)
    assert paired_bootstrap(a, b, pools=([9] * 3, [9] * 4), seed=5) == plain
    # The figures of this comparison as they were before there were pools.
    assert (plain.value, plain.low, plain.high) == pytest.approx(
        (-0.010393978424189765, -0.09978409663011131, 0.07550319944887939), abs=1e-12
    )


def test_pools_alone_give_the_interval_of_students_t():
    """Without seed noise the interval is mean ± t * s / sqrt(pools), with pools - 1 degrees of freedom."""
    shift = np.array([0.1, 0.5, 0.2, -0.1])
    a, pools = _constant_units(range(4), 0.3 + shift[:, None] * np.ones((4, 3)))
    b, _ = _constant_units(range(4), np.full((4, 3), 0.3))
    interval = paired_bootstrap(a, b, pools=(pools, pools), resamples=40_000)
    wanted = scipy_stats.t.ppf(0.975, 3) * np.std(shift, ddof=1) / 2
    assert interval.value == pytest.approx(shift.mean())
    assert (interval.value - interval.low, interval.high - interval.value) == pytest.approx(
        (wanted, wanted), rel=0.05
    )


def test_a_pool_that_both_arms_share_cancels():
    rng = np.random.default_rng(8)
    level = 5 * rng.normal(size=(3, 1))
    a, pools = _constant_units(range(3), level + 0.2)
    b, _ = _constant_units(range(3), level + np.zeros((3, 1)))
    interval = paired_bootstrap(a, b, pools=(pools, pools))
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.2, 0.2, 0.2))


def test_pools_that_differ_by_their_seeds_alone_add_nothing():
    """Seed noise shows between the pools' means too; where it explains them, it is not counted twice."""
    a, pools = _constant_units(range(3), np.array([[0.0, 1.0], [0.1, 1.1], [-0.1, 0.9]]))
    b, _ = _constant_units(range(3), np.zeros((3, 2)))
    interval = paired_bootstrap(a, b, pools=(pools, pools), resamples=20_000)
    assert interval.low == pytest.approx(
        interval.value - 0.5, abs=0.01
    )  # one of two seeds in each pool: mean ± 0.5 at most
    assert interval.high == pytest.approx(interval.value + 0.5, abs=0.01)


@pytest.mark.parametrize("between, seed", [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.2)])
def test_three_pools_cover_about_as_often_as_promised(between, seed):
    """Simulated arms of equal mean with known variances: 3 pools x 5 seeds, as in the study."""
    rng = np.random.default_rng(9)
    covered, trials = 0, 400
    for trial in range(trials):
        effect = rng.normal(0, between, (3, 1)) if between else np.zeros((3, 1))
        a, pools = _constant_units(range(3), effect + rng.normal(0, seed, (3, 5)))
        b, _ = _constant_units(range(3), rng.normal(0, seed, (3, 5)))
        interval = paired_bootstrap(a, b, pools=(pools, pools), resamples=400, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert (
        0.88 <= covered / trials <= 0.985
    )  # 90 to 96 % with more trials; drawing pools and seeds both in full: 88 to 100 %


def test_two_pools_have_a_pool_level():
    """Two pools without seed noise: Student's t with one degree of freedom."""
    shift = np.array([0.1, 0.4])
    a, pools = _constant_units(range(2), 0.3 + shift[:, None] * np.ones((2, 3)))
    b, _ = _constant_units(range(2), np.full((2, 3), 0.3))
    interval = paired_bootstrap(a, b, pools=(pools, pools), resamples=40_000)
    expected = scipy_stats.t.ppf(0.975, 1) * np.std(shift, ddof=1) / math.sqrt(2)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.06)


def test_the_pool_level_adds_what_the_seeds_do_not_explain():
    """Two seeds per pool and arm: with pools far apart, the interval is that of Student's t on the pools'
    differences, a little wider by the seeds."""
    rng = np.random.default_rng(12)
    shift = np.array([0.0, 1.0, 2.0])
    noise = rng.normal(0, 0.2, (3, 2))
    a, pools = _constant_units(range(3), shift[:, None] + noise)
    b, _ = _constant_units(range(3), np.zeros((3, 2)))
    interval = paired_bootstrap(a, b, pools=(pools, pools), resamples=40_000)
    differences = (shift[:, None] + noise).mean(1)
    within = np.mean([row.var(ddof=1) / 2 for row in noise])
    between = differences.var(ddof=1)
    share = math.sqrt(1 - within / between)
    pool_level = share * scipy_stats.t.ppf(0.975, 2) * math.sqrt(between / 3)
    assert _half_width(interval) == pytest.approx(pool_level, rel=0.05)
    assert _half_width(interval) > pool_level * 0.99


def test_one_seed_per_pool_leaves_all_noise_to_the_pools():
    shift = np.array([0.1, 0.3, 0.15, -0.05])
    a, pools = _constant_units(range(4), 0.3 + shift[:, None])
    b, _ = _constant_units(range(4), np.full((4, 1), 0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = paired_bootstrap(a, b, pools=(pools, pools), resamples=40_000)
    expected = scipy_stats.t.ppf(0.975, 3) * np.std(shift, ddof=1) / 2
    assert _half_width(interval) == pytest.approx(expected, rel=0.05)


FIGURES = [
    (0.06391468073619821, -0.02472480680245996, 0.14637719163427315),
    (0.13057035191419303, -0.31434384415331523, 0.5298180589165755),
]


def test_figures_over_pools_stay_what_they_are():
    """Pools near and far apart: a change of these numbers is a change of every interval of the study."""
    rng = np.random.default_rng(13)
    pools = [pool for pool in range(3) for _ in range(2)]
    intervals = []
    for spread in (0.0, 0.3):
        a, b = (
            [[rng.random(20) + spread * pool * side, rng.random(15)] for pool in pools] for side in (1, 0)
        )
        intervals.append(paired_bootstrap(a, b, pools=(pools, pools), resamples=500, seed=5))
    assert [(i.value, i.low, i.high) for i in intervals] == [
        pytest.approx(FIGURES[0], abs=1e-12),
        pytest.approx(FIGURES[1], abs=1e-12),
    ]


def test_equal_pools_add_nothing_and_warn_of_nothing():
    a, pools = _constant_units(range(3), np.full((3, 2), 0.4))
    b, _ = _constant_units(range(3), np.full((3, 2), 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = paired_bootstrap(a, b, pools=(pools, pools))
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.3, 0.3, 0.3))


def test_pools_count_the_same_however_many_units_they_have():
    units, pools = [[np.array([0.0])], [np.array([0.0])], [np.array([0.0])], [np.array([1.0])]], [0, 0, 0, 1]
    assert grand_mean(units, pools=pools) == pytest.approx(0.5)
    assert unit_weights(pools) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_arms_on_different_pools_are_refused():
    unit = [np.zeros(3)]
    with pytest.raises(ValueError, match=r"different pools: \[0, 1\] and \[0, 2\]"):
        paired_bootstrap([unit, unit], [unit, unit], pools=([0, 1], [0, 2]))
    with pytest.raises(ValueError, match="2 and 2 units, but pools of 2 and 1"):
        paired_bootstrap([unit, unit], [unit, unit], pools=([0, 1], [0]))


def test_every_pool_has_the_same_weight_however_many_units_it_has():
    a, b = [[np.zeros(2)], [np.zeros(2)], [np.ones(2)]], [[np.zeros(2)], [np.zeros(2)]]
    assert grand_mean(a) == pytest.approx(1 / 3) and grand_mean(a, pools=[1, 1, 2]) == 0.5
    assert paired_bootstrap(a, b, pools=([1, 1, 2], [1, 2])).value == 0.5
    assert paired_bootstrap(b, a, pools=([1, 2], [1, 1, 2])).value == -0.5
    assert _Units([1, 1, 2], a).benchmark_means() == [0.5]
