"""Units and weights against values worked out by hand; errors and intervals within strata against scipy."""

import math

import numpy as np
import pytest
from evaluation_data import bench
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import sem

from evaluation.statistics.basic import stratified_stderr, stratum_rows
from evaluation.suite import Benchmark, Unit, Weight
from evaluation.units import UnitError, check_limit, layout, of_whole, unit_names, unit_scores

PAIRS = Unit(name="pair", by=("category", "image"), score="pair")


def benchmark(unit: Unit | None = None, weight: Weight | None = None) -> Benchmark:
    return bench("b", "B", unit=unit or Unit(), weight=weight or Weight())


def docs(categories: str, images: str | None = None) -> list[dict[str, str]]:
    return [{"category": c, "image": i} for c, i in zip(categories, images or categories, strict=True)]


# --- layout -----------------------------------------------------------------------------------------------


def test_without_columns_every_question_is_a_unit_of_the_same_weight():
    plan = layout(benchmark(weight=Weight(points=100)), docs("aabc"))
    assert plan == (["0", "1", "2", "3"], [""] * 4, [25.0] * 4)


def test_categories_weigh_alike_whatever_their_size():
    plan = layout(benchmark(weight=Weight(by=("category",))), docs("aaabb"))
    assert plan.strata == list("aaabb")
    assert plan.weights == pytest.approx([1 / 6] * 3 + [1 / 4] * 2)


def test_the_sum_of_categories_is_their_mean_times_their_number():
    mean, total = (
        layout(benchmark(weight=Weight(by=("category",), across=across, points=100)), docs("aaabb"))
        for across in ("mean", "sum")
    )
    assert total.weights == pytest.approx([2 * weight for weight in mean.weights])
    assert sum(mean.weights) == pytest.approx(100) and sum(total.weights) == pytest.approx(200)


def test_the_questions_of_a_unit_share_its_weight():
    """Category a has two pairs, b has one: 100 points each, as in MME."""
    weight = Weight(by=("category",), across="sum", points=100)
    plan = layout(benchmark(PAIRS, weight), docs("aaaabb", "112211"))
    assert plan.units == ["a / 1", "a / 1", "a / 2", "a / 2", "b / 1", "b / 1"]
    assert plan.weights == pytest.approx([25] * 4 + [50] * 2)


def test_a_remainder_names_the_unit_of_rotated_copies():
    unit = Unit(by=("index",), modulo=1000, score="all")
    assert unit_names(unit, [{"index": i} for i in (7, 1007, 8, "2007")]) == ["7", "7", "8", "7"]


def test_a_unit_in_two_categories_is_refused():
    unit = Unit(name="image", by=("image",))
    with pytest.raises(UnitError, match="b: image '1' is in two categories"):
        layout(benchmark(unit, Weight(by=("category",))), docs("ab", "11"))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), min_size=1),
    st.sampled_from(["mean", "all", "pair"]),
    st.sampled_from(["mean", "sum"]),
)
def test_the_value_of_all_right_is_the_top_of_the_scale_and_no_unit_exceeds_its_own(rows, score, across):
    unit = Unit(by=("category", "image"), score=score)
    own = docs("".join(c for c, _, _ in rows), "".join(str(i) for _, i, _ in rows))
    plan = layout(benchmark(unit, Weight(by=("category",), across=across, points=10)), own)
    top = 10 * (2 if score == "pair" else 1) * (len({c for c, _, _ in rows}) if across == "sum" else 1)

    def value(scores):
        return sum(w * s for w, s in zip(plan.weights, unit_scores(unit, plan.units, scores), strict=True))

    assert value([1.0] * len(rows)) == pytest.approx(top) and value([0.0] * len(rows)) == 0
    assert 0 <= value([float(right) for *_, right in rows]) <= top + 1e-9


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [0.5, 0.5, 1.0, 1.0, 0.0]),
        ("all", [0.0, 0.0, 1.0, 1.0, 0.0]),
        ("pair", [0.5, 0.5, 2.0, 2.0, 0.0]),
    ],
)
def test_the_score_of_a_unit(rule, expected):
    assert unit_scores(Unit(score=rule), ["x", "x", "y", "y", "z"], [1, 0, 1, 1, 0]) == expected


def test_almost_right_is_not_all_right():
    assert unit_scores(Unit(score="all"), ["x", "x"], [1, 0.999]) == [0, 0]


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "limit", "nearest"),
    [("112233", 1, "2"), ("112233", 3, "2, 4"), ("1232", 3, "1, 4"), ("123123", 3, "6"), ("1213", 1, "3")],
)
def test_a_limit_that_splits_a_unit_is_refused_with_the_nearest_that_do_not(images, limit, nearest):
    message = rf"limit {limit} splits pair '.*' of b, .* the nearest limits that split none: {nearest}$"
    with pytest.raises(UnitError, match=message):
        check_limit(benchmark(PAIRS), docs(images), limit)


@pytest.mark.parametrize(("images", "limit"), [("112233", 2), ("112233", 6), ("112233", 9), ("1231", 4)])
def test_a_limit_between_units_is_none_of_its_concern(images, limit):
    check_limit(benchmark(PAIRS), docs(images), limit)


def test_a_unit_of_one_question_has_no_parts():
    check_limit(benchmark(), docs("aabb"), 3)


@given(st.text("123456", min_size=1, max_size=12), st.integers(1, 12))
def test_a_limit_is_refused_exactly_if_a_unit_lies_on_both_sides(images, limit):
    own = docs("a" * len(images), images)
    if set(images[:limit]) & set(images[limit:]):
        with pytest.raises(UnitError, match="splits pair"):
            check_limit(benchmark(PAIRS), own, limit)
    else:
        check_limit(benchmark(PAIRS), own, limit)


# --- statistics over units ----------------------------------------------------------------------------------

STRATA = ["a"] * 12 + ["b"] * 5 + ["c"] * 30


@pytest.fixture
def values() -> np.ndarray:
    """Strata whose levels are far apart, with little variation inside."""
    rng = np.random.default_rng(0)
    levels = np.array([{"a": 0.0, "b": 5.0, "c": 50.0}[stratum] for stratum in STRATA])
    return levels + rng.normal(size=len(STRATA))


def closed_form(values: np.ndarray) -> float:
    """sqrt(sum over strata of (share x standard error of its mean)^2), Cochran 1977, section 5.3."""
    groups = [values[rows] for rows in stratum_rows(STRATA)]
    return math.sqrt(sum((len(g) / len(values) * sem(g)) ** 2 for g in groups))


def test_the_standard_error_within_strata_against_the_closed_form(values):
    assert stratified_stderr(values, STRATA) == pytest.approx(closed_form(values), rel=1e-12)
    assert stratified_stderr(values, STRATA) < sem(values) / 5


def test_one_stratum_is_the_plain_standard_error(values):
    assert stratified_stderr(values, ["x"] * len(values)) == pytest.approx(sem(values), rel=1e-12)


def test_strata_of_one_unit_have_no_known_error():
    assert stratified_stderr([1.0, 2.0, 3.0], ["a", "b", "c"]) is None
    pair = stratified_stderr([1.0, 3.0, 9.0], ["a", "a", "b"])
    assert pair == pytest.approx(2 / 3 * sem([1.0, 3.0]))


def test_the_order_of_units_does_not_matter(values):
    order = np.random.default_rng(1).permutation(len(values))
    shuffled = stratified_stderr(values[order], [STRATA[i] for i in order])
    assert shuffled == pytest.approx(stratified_stderr(values, STRATA), rel=1e-12)


def test_a_sum_of_categories_of_which_some_are_missing_stands_for_all():
    weight = Weight(by=("category",), across="sum", categories=4, points=100)
    part = layout(benchmark(weight=weight), docs("aab"))
    assert sum(part.weights) == pytest.approx(400), "a right answer to everything is the top of the scale"
    assert of_whole(benchmark(weight=weight), 2) == 2.0 and of_whole(benchmark(weight=weight), 4) == 1.0
