"""The error of a difference against analysis of variance and known variances."""

import math

import numpy as np
import pytest

from evaluation.statistics.basic import stratified_stderr
from evaluation.statistics.crossed import Arm, cells, components, differences, estimates, paired
from evaluation.statistics.family import adjusted, per_comparison

ONE = np.ones((1, 1))


def arm(rng, units=3, questions=(30,), pools=None, level=0.0, noise=1.0, own=None):
    own = [np.zeros(n) for n in questions] if own is None else own
    return Arm(
        [[level + part + rng.normal(0, noise, len(part)) for part in own] for _ in range(units)],
        pools or [0] * units,
    )


def flat(questions):
    return [["all"] * n for n in questions]


def test_one_benchmark_and_pools_are_the_crossed_analysis_of_variance():
    """V = (MS pools + MS questions - MS pools x questions) / (pools questions), by statsmodels' table."""
    pandas = pytest.importorskip("pandas")
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    rng = np.random.default_rng(0)
    own = [rng.normal(0, 2, 12)]
    pools = [0, 0, 1, 1, 2, 2, 3, 3]
    arms = {"a": arm(rng, 8, (12,), pools, own=own), "b": arm(rng, 8, (12,), pools)}
    found = estimates(paired(arms, {"a": "b"}, flat([12]))["a"], ONE)
    table = [
        (pool, question, np.mean([arms["a"].scores[2 * pool + i][0][question] for i in (0, 1)]))
        for pool in range(4)
        for question in range(12)
    ]
    minus = [np.mean([arms["b"].scores[2 * p + i][0][q] for i in (0, 1)]) for p, q, _ in table]
    frame = pandas.DataFrame(table, columns=["pool", "question", "d"])
    frame["d"] -= minus
    squares = anova.anova_lm(formula.ols("d ~ C(pool) + C(question)", frame).fit())["mean_sq"]
    of_pools, of_questions, both = squares["C(pool)"], squares["C(question)"], squares["Residual"]
    assert found.units[0, 0] == pytest.approx(of_pools / 48)
    inflated = found.question[0] / (11 / 9)  # the variance of a t of 11 degrees of freedom
    assert inflated == pytest.approx(max(of_questions - both, 0) / 48)
    assert found.df[0].tolist() == [3, 1]
    assert found.values == pytest.approx(frame["d"].mean())


def test_one_pool_has_the_variances_of_both_arms_means_and_the_answers_once():
    rng = np.random.default_rng(1)
    own = [rng.normal(0, 3, 400), rng.normal(0, 3, 200)]
    arms = {"a": arm(rng, 4, (400, 200), own=own), "b": arm(rng, 3, (400, 200), noise=2.0)}
    found = estimates(paired(arms, {"a": "b"}, flat((400, 200)))["a"], np.array([[0.5, 0.5]]))
    means = {name: [np.mean([p.mean() for p in unit]) for unit in own.scores] for name, own in arms.items()}
    assert found.units[0] == pytest.approx([np.var(means["a"], ddof=1) / 4, np.var(means["b"], ddof=1) / 3])
    assert found.df[0].tolist() == [3, 2]
    # 9 (1 / 400 + 1 / 200) / 4 is what questions leave; answers would add (1 / 4 + 4 / 3) (...) / 4 to it.
    assert found.question[0] == pytest.approx(9 * (1 / 400 + 1 / 200) / 4, rel=0.2)


def test_answers_alone_leave_nothing_to_questions_on_average():
    rng = np.random.default_rng(2)
    left = []
    for _ in range(200):
        pair = paired({"a": arm(rng, 3, (200,)), "b": arm(rng, 3, (200,))}, {"a": "b"}, flat([200]))["a"]
        answers = sum(part.share * part.answers[0] for part in pair.parts)
        left.append(pair.questions[0] - answers)
        assert answers == pytest.approx(2 / 3 / 200, rel=0.5)
    assert np.mean(left) == pytest.approx(0, abs=3 * np.std(left) / math.sqrt(200))


def test_questions_vary_within_their_strata():
    rng = np.random.default_rng(3)
    strata = [["x"] * 10 + ["y"] * 30]
    arms = {"a": arm(rng, 2, (40,), own=[np.repeat([0.0, 50.0], [10, 30])]), "b": arm(rng, 2, (40,))}
    pair = paired(arms, {"a": "b"}, strata)["a"]
    d = np.mean([u[0] for u in arms["a"].scores], 0) - np.mean([u[0] for u in arms["b"].scores], 0)
    assert pair.questions[0] == pytest.approx(stratified_stderr(d, strata[0]) ** 2)


def test_strata_of_one_question_are_taken_together():
    rng = np.random.default_rng(4)
    strata = [["x"] * 10 + ["alone", "too", "three"]]
    arms = {"a": arm(rng, 2, (13,)), "b": arm(rng, 2, (13,))}
    pair = paired(arms, {"a": "b"}, strata)["a"]
    d = np.mean([u[0] for u in arms["a"].scores], 0) - np.mean([u[0] for u in arms["b"].scores], 0)
    together = stratified_stderr(d, ["x"] * 10 + ["rest"] * 3)
    assert pair.questions[0] == pytest.approx(together**2)


def test_two_pools_are_fixed_and_weigh_alike_whatever_their_repetitions():
    rng = np.random.default_rng(5)
    a = Arm([[np.full(20, v) + rng.normal(0, 0.1, 20)] for v in (0, 0, 0, 0, 8, 8)], [1, 1, 1, 1, 2, 2])
    b = arm(rng, 4, (20,), [1, 1, 2, 2], noise=0.1)
    pair = paired({"a": a, "b": b}, {"a": "b"}, flat([20]))["a"]
    found = estimates(pair, ONE)
    assert found.values[0] == pytest.approx(4, abs=0.2)
    assert found.df[0].tolist() == [4, 2]
    assert np.sqrt(found.units[0]).max() < 0.1  # what differs between the pools is not noise
    assert pair.repetitions == (pytest.approx(2 / (1 / 4 + 1 / 2)), 2)


def test_components_are_those_of_the_world():
    rng, found = np.random.default_rng(6), []
    for _ in range(60):
        pools = np.repeat(range(4), 3)
        q = rng.normal(0, 20, 300)
        move = rng.normal(0, 2, 4)[pools]
        own = [[m + rng.normal(0, 1) + q + rng.normal(0, 10, 300)] for m in move]
        base = [[rng.normal(0, 0.5) + rng.normal(0, 10, 300)] for _ in pools]
        arms = {"a": Arm(own, pools.tolist()), "b": Arm(base, pools.tolist())}
        c = components(paired(arms, {"a": "b"}, flat([300]))["a"])
        found.append([c.pools, c.seeds, c.base_seeds, c.questions, c.answers])
    seen = np.sqrt(np.mean(np.square(found), axis=0))
    answers = 10 / math.sqrt(300)
    expected = [2, math.hypot(1, answers), math.hypot(0.5, answers), 20 / math.sqrt(300), answers]
    assert seen == pytest.approx(expected, rel=0.15)


def test_one_repetition_is_not_tested_and_does_not_count_in_the_family():
    rng = np.random.default_rng(7)
    arms = {"one": arm(rng, 1), "three": arm(rng, 3), "full": arm(rng, 3), "random": arm(rng, 3)}
    pairs = dict.fromkeys(("one", "three", "full"), "random")
    tested = differences(arms, pairs, flat([30]), anchors={"full"})
    assert {name: one.family for name, one in tested.items()} == {"one": 1, "three": 1, "full": 0}
    one, three, full = (tested[name].difference for name in ("one", "three", "full"))
    assert math.isnan(one.stderr) and math.isnan(one.low) and not math.isnan(one.value)
    assert (three.low, three.high, three.p) == (three.corrected_low, three.corrected_high, three.corrected_p)
    assert full.low < full.value < full.high and math.isnan(full.corrected_low)


def test_intervals_agree_with_p_at_once_and_alone():
    rng = np.random.default_rng(8)
    arms = {f"a{i}": arm(rng, 4, (50,), level=i / 4) for i in range(8)} | {"random": arm(rng, 4, (50,))}
    tested = differences(arms, dict.fromkeys(list(arms)[:-1], "random"), flat([50]))
    for one in (t.difference for t in tested.values()):
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0)
        assert (one.corrected_p < 0.05) == (one.corrected_low > 0 or one.corrected_high < 0)
        assert one.corrected_low < one.low and one.high < one.corrected_high
    assert any(t.difference.p < 0.05 for t in tested.values())


def test_cells_are_a_family_of_all_arms_and_benchmarks():
    rng = np.random.default_rng(9)
    sizes = (30, 40, 50)
    arms = {name: arm(rng, 3, sizes) for name in ("a", "b", "random")}
    tested = differences(arms, {"a": "random", "b": "random"}, flat(sizes))
    by_arm = cells(tested)
    alone = differences(
        {name: Arm([[unit[1]] for unit in own.scores], own.pools) for name, own in arms.items()},
        {"a": "random", "b": "random"},
        flat(sizes[1:2]),
    )
    assert by_arm["b"][1].low == pytest.approx(alone["b"].difference.low)
    assert by_arm["b"][1].corrected_p == pytest.approx(adjusted(np.array([by_arm["b"][1].p]), 6)[0])
    assert np.mean([cell.value for cell in by_arm["a"]]) == pytest.approx(tested["a"].difference.value)
    assert cells({}) == {}


def test_order_of_arms_and_repetitions_does_not_matter():
    rng = np.random.default_rng(10)
    arms = {name: arm(rng, 6, (30,), [2, 1, 3, 1, 2, 3]) for name in ("a", "b", "random")}
    turned = {name: Arm(own.scores[::-1], own.pools[::-1]) for name, own in reversed(arms.items())}
    pairs = {"a": "random", "b": "random"}
    first, second = differences(arms, pairs, flat([30])), differences(turned, pairs, flat([30]))
    assert first["a"].difference.corrected_low == pytest.approx(second["a"].difference.corrected_low)


def test_what_cannot_be_paired_says_so():
    rng = np.random.default_rng(11)
    good = arm(rng)
    for bad, message in (
        (arm(rng, 3, (29,)), r"repetition 0: answered \[29\] questions of the benchmarks, not \[30\]"),
        (Arm([], []), "'a': 0 repetitions"),
        (Arm([[np.full(30, np.nan)]] * 3, [0] * 3), "repetition 0: a score is not a finite number"),
        (arm(rng, 3, (30,), [1, 1, 2]), "'a' and 'b' were run on different pools"),
    ):
        with pytest.raises(ValueError, match=message):
            differences({"a": bad, "b": good}, {"a": "b"}, flat([30]))
    with pytest.raises(ValueError, match="no benchmarks"):
        differences({"a": good, "b": good}, {"a": "b"}, [])


def test_equal_means_of_other_answers_are_not_an_exact_difference():
    """0 and 0 right against 1 and 1 of 10, each on another question: no repetition's mean differs."""
    none, first, second = np.zeros(10), np.eye(10)[3], np.eye(10)[7]
    arms = {"a": Arm([[100 * first], [100 * second]], [0, 0]), "b": Arm([[none], [none]], [0, 0])}
    tested = differences(arms, {"a": "b"}, flat([10]))["a"]
    of_answers = 2 * (2 * 50**2 / 9 / 10)  # on two of ten questions each repetition is 50 off their mean
    assert tested.pair.parts[0].answers[0] == pytest.approx(of_answers)
    assert estimates(tested.pair, ONE).units[0].tolist() == pytest.approx([of_answers / 2, 0])
    assert tested.difference.value == 10 and tested.difference.stderr > 5
    assert tested.difference.corrected_low < 0 < tested.difference.corrected_high


def test_no_variance_at_all_is_exact():
    same = Arm([[np.full(5, 50.0)]] * 2, [0, 0])
    more = Arm([[np.full(5, 60.0)]] * 2, [0, 0])
    tested = differences({"s": same, "m": more, "b": same}, {"s": "b", "m": "b"}, flat([5]))
    assert (tested["s"].difference.p, tested["m"].difference.p) == (1.0, 0.0)
    assert tested["m"].difference.corrected_low == 10.0


@pytest.mark.parametrize("tests", [1, 2, 19, 200])
def test_sidak(tests):
    alpha = per_comparison(0.05, tests)
    assert (1 - alpha) ** tests == pytest.approx(0.95)
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.array([0.001, 0.03, 0.5, 0.9] + [0.9] * (tests - 4))[:tests]
    expected = multitest.multipletests(p, method="sidak")[1]
    assert adjusted(p, tests) == pytest.approx(expected)
