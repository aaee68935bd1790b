"""Words follow from corrected intervals, needs from power, and robustness from other weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from evaluation.comparison import Components, Needs
from evaluation.statistics.claims import claim
from evaluation.statistics.crossed import Arm, differences
from evaluation.statistics.family import per_comparison
from evaluation.statistics.power import (
    MOST_RUNS,
    Error,
    error_of,
    needs,
    smallest_by_questions,
    smallest_effect,
    smallest_of,
    table,
)
from evaluation.statistics.robustness import above_null, robustness

SIZES = (40, 60, 50)
STRATA = [["all"] * n for n in SIZES]
SEEN = Components(pools=0.8, seeds=0.75, base_seeds=0.75, questions=0.1, answers=0.7)


def compared(levels=(0.0, 0.0, 0.0), *, noise=5.0, units=5, pools=None, others=0, unit=0.0):
    """An arm so many points above its baseline on each benchmark, beside other arms that are alike."""
    rng = np.random.default_rng(0)
    pools = pools or [0] * units

    def arm(levels):
        moves = rng.normal(0, unit, units)
        return Arm(
            [[v + m + rng.normal(0, noise, n) for v, n in zip(levels, SIZES, strict=True)] for m in moves],
            pools,
        )

    arms = {"arm": arm(levels)} | {f"other {i}": arm((0.0,) * 3) for i in range(others)}
    pairs = dict.fromkeys(arms, "random")
    return differences(arms | {"random": arm((0.0,) * 3)}, pairs, STRATA)["arm"]


def test_words():
    cases = {
        "beats": ((20.0, 20.0, 20.0), 5.0),
        "loses to": ((-20.0, -20.0, -20.0), 5.0),
        "equivalent": ((0.0, 0.0, 0.0), 0.5),
        "undecided": ((0.0, 0.0, 0.0), 20.0),
    }
    for verdict, (levels, noise) in cases.items():
        said = claim(compared(levels, noise=noise))
        assert (said.verdict, said.scope, said.family) == (verdict, "on this pool", 1)
        assert (said.needs is not None) == (verdict == "undecided")


def test_what_beats_and_is_inside_the_margin_says_both():
    small = compared((0.5, 0.5, 0.5), noise=0.5)
    assert (claim(small).verdict, claim(small).reason) == ("beats", "by less than 1 points")
    assert claim(small, margin=0.2).reason == ""


def test_words_are_from_the_corrected_interval_only():
    """The same arm, among more and more others: the word falls where the corrected interval meets 0."""
    verdicts = {others: claim(compared((1.6,) * 3, others=others)) for others in (0, 1, 5, 200)}
    assert verdicts[0].verdict == "beats" and verdicts[200].verdict == "undecided"
    assert verdicts[200].family == 201
    alone = compared((1.6,) * 3, others=200).difference
    assert alone.low > 0 > alone.corrected_low


def test_equivalence_is_of_two_one_sided_tests_at_the_corrected_level():
    one = compared(noise=1.0, others=3)
    low, high = one.inside
    assert one.difference.corrected_low < low < one.difference.low
    assert one.alpha == pytest.approx(per_comparison(0.05, 4))
    edge = max(high, -low)
    assert claim(one, margin=edge * 1.0001).verdict == "equivalent"
    assert claim(one, margin=edge * 0.9999).verdict == "undecided"


def test_scope_follows_from_the_pools():
    scopes = {n: claim(compared(pools=[i % n for i in range(8)], units=8)).scope for n in (1, 2, 3, 4)}
    assert scopes == {1: "on this pool", 2: "on these pools", 3: "over pools", 4: "over pools"}


@pytest.mark.parametrize("pools, reason", [([0], "of its baseline only"), ([0, 1], "or a third pool")])
def test_one_repetition_has_no_word(pools, reason):
    said = claim(compared((50.0,) * 3, units=len(pools), pools=pools))
    assert said.verdict is None and reason in said.reason and said.needs is None


def test_an_anchor_has_no_word():
    one = replace(compared((50.0,) * 3), family=0)
    assert (claim(one).verdict, claim(one).reason) == (None, "shown for scale, not tested")


def test_power_without_questions_is_that_of_the_t_test():
    """Pools alone: the noncentral t (one side, as a difference is found on its own side)."""
    for df, alpha in ((2, 0.05), (14, 0.05), (9, 0.001)):
        effect = smallest_of(Error((4.0,), (df,), 0.0), alpha)
        assert nct.sf(student.isf(alpha / 2, df), df, effect / 2) == pytest.approx(0.8, abs=0.01)


def test_questions_alone_are_what_any_design_leaves():
    alone = smallest_by_questions(SEEN, 1)
    assert alone == pytest.approx(0.1 * (1.95996 + 0.84162), rel=2e-3)
    assert smallest_by_questions(SEEN, 1, share=4) == pytest.approx(alone / 2)
    assert smallest_effect(SEEN, 10_000, 100, 100, 1) == pytest.approx(alone, rel=0.01)
    assert smallest_by_questions(replace(SEEN, questions=None), 1) is None


def test_more_pools_seeds_and_fewer_arms_find_less():
    def effect(pools, seeds, family=1):
        return smallest_effect(SEEN, pools, seeds, seeds, family)

    assert effect(15, 1) < effect(5, 3) < effect(3, 5)
    assert effect(1, 3) > effect(1, 5) > effect(1, 10)
    assert effect(3, 5, 19) > effect(3, 5, 2) > effect(3, 5)
    assert effect(1, 1) is None and effect(2, 1) is None


def test_the_table_has_a_row_for_each_design():
    rows = table(SEEN, 3, pools=(1, 3), seeds=(1, 5), base_seeds=10)
    designs = [(1, 1, 10), (1, 5, 10), (3, 1, 10), (3, 5, 10)]
    assert [(r.pools, r.seeds, r.base_seeds) for r in rows] == designs
    assert rows[0].effect is None and rows[0].half_width is None
    assert all(row.effect > row.half_width > 0 for row in rows[1:])


def test_needs_are_the_fewest_runs_that_find_the_margin():
    found = needs(SEEN, 3, (5, 5), margin=1.0, family=4)
    assert found.seeds == 1 and found.reason == ""
    assert smallest_effect(SEEN, found.pools, 1, 1, 4) <= 1.0
    assert smallest_effect(SEEN, found.pools - 1, 1, 1, 4) > 1.0
    here = needs(SEEN, 1, (3, 3), margin=1.0, family=4)
    assert here.pools == 1
    assert smallest_effect(SEEN, 1, here.seeds, here.seeds, 4) <= 1.0
    assert smallest_effect(SEEN, 1, here.seeds - 1, here.seeds - 1, 4) > 1.0


def test_needs_that_no_design_meets_say_why():
    assert "more questions" in needs(replace(SEEN, questions=0.5), 3, margin=1.0, family=1).reason
    assert str(MOST_RUNS) in needs(replace(SEEN, pools=20.0), 3, margin=1.0, family=1).reason
    assert needs(SEEN, 30, (5, 5), margin=1.0, family=1) == Needs(
        None, None, "no more runs than these: the difference is too close to 0 or to the margin"
    )


def test_the_error_of_a_design():
    assert error_of(SEEN, 3, 5, 10) == Error(
        (pytest.approx((0.8**2 + 0.75**2 / 5 + 0.75**2 / 10) / 3),), (2,), pytest.approx(0.01)
    )
    assert error_of(SEEN, 2, 3, 5).df == (4, 8)


def test_leaving_out_a_benchmark_is_the_difference_of_the_others():
    one = compared((0.0, 0.0, 30.0))
    found = robustness(one, ["a", "b", "mme"])
    assert found.without["mme"].value == pytest.approx(one.pair.values[:2].mean())
    assert found.without_mme == found.without["mme"] and found.chance_corrected is None
    assert found.median == np.median(one.pair.values)
    assert claim(one).verdict == "beats" and found.rests_on == ("mme",)
    assert robustness(compared((20.0,) * 3), ["a", "b", "c"]).rests_on == ()
    assert robustness(compared(), ["a", "b", "c"]).without_mme is None


def test_leaving_one_out_is_the_same_as_never_having_had_it():
    rng = np.random.default_rng(1)
    arms = {name: Arm([[rng.normal(0, 5, n) for n in SIZES] for _ in range(4)], [0] * 4) for name in "ab"}
    whole = robustness(differences(arms, {"a": "b"}, STRATA)["a"], ["x", "y", "z"]).without["z"]
    fewer = {name: Arm([unit[:2] for unit in own.scores], own.pools) for name, own in arms.items()}
    assert whole.low == pytest.approx(differences(fewer, {"a": "b"}, STRATA[:2])["a"].difference.low)


def test_a_claim_that_is_not_made_rests_on_nothing():
    assert robustness(compared(noise=20.0), ["a", "b", "c"]).rests_on == ()


def test_chance_corrected_is_in_percent_of_what_guessing_leaves():
    one = compared((6.0, 6.0, 6.0))
    found = robustness(one, ["a", "b", "c"], chance=[25.0, 50.0, 0.0]).chance_corrected
    assert found.value == pytest.approx(np.mean(one.pair.values * [100 / 75, 2, 1]))
    assert found.low < found.value < found.high and math.isnan(found.corrected_low)


def test_one_benchmark_has_no_robustness():
    one = differences({n: Arm([[np.zeros(3)]] * 2, [0, 0]) for n in "ab"}, {"a": "b"}, [["all"] * 3])["a"]
    assert robustness(one, ["only"]) is None


def test_null_range_is_binomial_without_and_wider_with_a_common_level():
    from scipy.stats import binom

    def pair(unit):
        rng = np.random.default_rng(2)
        arms = {
            name: Arm(
                [[m + rng.normal(0, 5, 100) for _ in range(14)] for m in rng.normal(0, unit, 5)], [0] * 5
            )
            for name in "ab"
        }
        return differences(arms, {"a": "b"}, [["all"] * 100] * 14)["a"].pair

    low, high = above_null(pair(0.0))
    assert low == pytest.approx(binom.ppf(0.025, 14, 0.5), abs=1.5)
    assert high == pytest.approx(binom.ppf(0.975, 14, 0.5), abs=1.5)
    assert above_null(pair(5.0)) == (0, 14)
    assert above_null(compared(units=1).pair) is None
