"""What a report says in words: verdicts from claims alone, their scope, what they rest on, what decides."""

import math
import re
from dataclasses import replace

import pytest
from comparisons import comparison, context, difference

from evaluation.comparison import Against, Claim, Comparison, Difference, Needs
from evaluation.report.summary import arm_sentences, paragraph
from evaluation.report.words import corrected, design, listed, p_value, points, verdict

NAN = math.nan
UNKNOWN = Difference(2.0, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN)


def changed(found: Comparison, name: str, **fields: object) -> Comparison:
    """The comparison with fields of one arm replaced."""
    return replace(
        found, arms=tuple(replace(arm, **fields) if arm.arm == name else arm for arm in found.arms)
    )


def claimed(found: Comparison, name: str, **fields: object) -> Comparison:
    return changed(found, name, claim=replace(found.arm(name).claim, **fields))


def said(found: Comparison) -> str:
    return paragraph(found, context(found))


def sentence(found: Comparison, name: str) -> str:
    [one] = [str(one) for one in arm_sentences(found) if one.subject == name]
    return one


# ------------------------------------------------------------------------------------------- the paragraph


def test_the_first_paragraph_says_what_was_compared_what_holds_and_what_would_decide():
    text = said(comparison(6, pools=3, seeds=2))
    assert text.startswith(
        "mini_study compares mmssr, selector_1, selector_2 and selector_3 with random at a budget of 10%, on "
        "3 pools x 2 seeds, by the mean over 14 benchmarks (suite mini). It speaks of pools like these, and "
        "of these benchmarks. The intervals hold for all 4 differences at once."
    )
    for part in (
        "mmssr (+2.10 points, +0.49 to +3.71) beats random over pools.",
        "selector_2 (-3.20 points, -4.81 to -1.59) loses to random over pools.",
        "selector_3 (+0.10 points, -1.51 to +1.71) is equivalent to random within 1 point over pools.",
        "Without a single benchmark some claims would not be made: mmssr without Spatial.",
        "selector_1 (+0.70 points, -0.91 to +2.31) is undecided over pools.",
        "To find a difference of 1 point would take 12 pools x 2 seeds.",
    ):
        assert part in text, part
    assert "**" not in text and "\n" not in text


@pytest.mark.parametrize(
    ("pools", "scope", "words"),
    [
        (
            1,
            "on this pool",
            "this one pool and these benchmarks; a claim about any pool needs at least three",
        ),
        (2, "on these pools", "these two pools and these benchmarks"),
        (3, "over pools", "pools like these"),
    ],
)
def test_every_sentence_has_its_scope(pools, scope, words):
    found = comparison(6, pools=pools, seeds=2)
    text = said(found)
    assert words in text and text.count(f" {scope}.") == 4
    others = {"on this pool", "on these pools", "over pools"} - {scope}
    assert not any(other in text for other in others)
    assert all(f" {scope}: " in str(one) for one in arm_sentences(found))


def test_one_seed_has_no_verdict_and_nothing_is_stressed():
    reason = "one repetition of the arm or of its baseline only"
    found = comparison(3, seeds=1)
    found = changed(
        claimed(found, "mmssr", verdict=None, reason=reason, needs=None), "mmssr", difference=UNKNOWN
    )
    [one] = arm_sentences(found)
    assert one.text.startswith(f" (10%) against random (10%): no verdict: {reason}. ") and not one.bold
    assert one.markdown.startswith("mmssr (10%)")
    text = said(found)
    assert f"No verdict on mmssr: {reason}." in text
    assert not re.search("beats|loses|equivalent|undecided", text + str(one)) and "nan" not in text + str(one)


def test_nothing_shown_is_said_to_be_nothing():
    found = comparison(3)
    for needs, words in (
        (Needs(15, 1), "To find a difference of 1 point would take 15 pools x 1 seed."),
        (Needs(None, None, "the questions alone leave 2.0 points"),
         "What finding a difference of 1 point would take: the questions alone leave 2.0 points"),
    ):  # fmt: skip
        open_one = claimed(found, "mmssr", verdict="undecided", needs=needs)
        text = said(changed(open_one, "mmssr", difference=difference(0.4, 0.5), robustness=None))
        assert "No arm is shown to be better, worse or equivalent." in text and words in text


def test_designs_of_several_arms_are_a_range():
    found = comparison(10, pools=3)
    found = claimed(found, "selector_5", needs=Needs(5, 1))
    assert "would take 5 pools x 1 seed to 12 pools x 2 seeds." in said(found)


def test_many_arms_are_counted_not_listed():
    text = said(comparison(200))
    assert "compares mmssr, selector_1, selector_2, selector_3 and 194 more with random" in text
    assert len(text) < 4000 and "and 46 more beat random on this pool." in text


def test_claims_that_leaks_carry_are_named():
    found = comparison(3)
    without = claimed(found, "mmssr", verdict="undecided")
    text = said(replace(found, without_leaks=without))
    assert "Without the questions that the pool repeats there is no such claim on mmssr." in text
    assert "no such claim" not in said(replace(found, without_leaks=found))


def test_a_suite_of_one_benchmark_is_said_to_be_one():
    found = comparison(3)
    one = found.suite.only((found.suite.benchmarks[0].name,))
    text = said(replace(found, suite=one))
    assert "by the score on Spatial alone (suite mini)" in text and "caveats below: one benchmark" in text
    assert "benchmarks" not in sentence(replace(found, suite=one), "mmssr").replace("single benchmarks", "")


def test_caveats_are_named_in_the_paragraph():
    found = comparison(3)
    text = paragraph(found, replace(context(found), modified=["sft.lr: 1 -> 2"]))
    assert text.endswith("Read this with the caveats below: protocol: modified.")


def test_controls_are_spoken_of_as_controls():
    found = changed(comparison(4), "selector_1", control="tokens", control_of="mmssr")
    undecided = Against(difference(0.7, 0.5), Claim("undecided", 1.0, "on this pool", 3))
    found = changed(found, "mmssr", own_controls={"selector_1": undecided})
    text = said(found)
    assert "compares mmssr with random" in text
    assert "Of the controls, selector_1 is undecided against random." in text
    assert [one.subject for one in arm_sentences(found)] == ["mmssr", "selector_1"]
    mean = found.arm("selector_1").mean.mean
    assert sentence(found, "mmssr").endswith(
        f" Its own controls: it is undecided against token-matched random ({mean:.1f}; +0.70, -0.91 to "
        "+2.31)."
    )
    assert "not shown to beat controls of their own: mmssr (token-matched random)." in text
    beaten = Against(difference(2.0, 0.5), Claim("beats", 1.0, "on this pool", 3))
    assert "of their own" not in said(changed(found, "mmssr", own_controls={"selector_1": beaten}))


def test_one_repetition_says_nothing_of_an_arm_and_its_own_control():
    found = changed(comparison(4), "selector_1", control="tokens", control_of="mmssr")
    alone = Against(UNKNOWN, Claim(None, 1.0, "on this pool", 0, "one repetition only"))
    found = changed(found, "mmssr", own_controls={"selector_1": alone})
    mean = found.arm("selector_1").mean.mean
    assert f"it has no verdict against token-matched random ({mean:.1f}; " in sentence(found, "mmssr")
    assert "nan" not in sentence(found, "mmssr")


def test_arms_that_are_shown_for_scale_have_no_sentence():
    found = comparison(3)
    scale = Claim(None, 1.0, "on this pool", 0, "shown for scale, not tested")
    found = changed(found, "full", difference=UNKNOWN, claim=scale, baseline="random", anchor=True)
    assert [one.subject for one in arm_sentences(found)] == ["mmssr"] and "full" not in said(found)


# ------------------------------------------------------------------------------------------- one arm


def test_a_sentence_on_an_arm_has_interval_p_family_and_what_it_rests_on():
    found = comparison(6)
    arm, base = found.arm("mmssr"), found.arm("random")
    assert sentence(found, "mmssr") == (
        f"mmssr (10%) beats random (10%) on this pool: {arm.mean.mean:.1f} against {base.mean.mean:.1f}, "
        "difference +2.10 points (corrected 95 % interval +0.49 to +3.71, p below 0.001, 4 differences at "
        f"once); above it on {arm.above} of 14 benchmarks, where 3 to 11 are expected without a difference. "
        "The claim rests on single benchmarks: it would not be made without Spatial."
    )
    assert "To find 1 point it would need 12 pools x 2 seeds." in sentence(found, "selector_1")


def test_a_small_difference_is_said_to_be_small():
    found = claimed(comparison(3), "mmssr", reason="by less than 1 points")
    assert "mmssr (10%) beats random (10%), by less than 1 point, on this pool:" in sentence(found, "mmssr")


def test_names_of_others_are_text_alone():
    found = changed(comparison(3), "mmssr", arm="<b>*x*[y](z)`")
    [one] = arm_sentences(found)
    assert one.markdown.startswith(r"**&lt;b&gt;\*x\*\[y\](z)\`** (10%) beats")


# ------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02, "+0.02"), (0.004, "+0.004"), (-0.0004, "-0.0004"), (0.0, "+0.00"), (-2.345, "-2.35"), (NAN, "–")],
)
def test_points_never_round_to_zero(value, text):
    assert points(value) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (1.0, "1.000"), (NAN, "–")]
)
def test_p_is_never_printed_as_zero(p, text):
    assert p_value(p) == text


def test_words_of_claims():
    beats = Claim("beats", 0.5, "on this pool", 1)
    assert verdict(None) == "–" and verdict(beats) == "beats"
    assert verdict(replace(beats, verdict="equivalent")) == "equivalent within 0.5 points"
    assert verdict(replace(beats, verdict=None, reason="one seed")) == "no verdict"
    assert design(Needs(1, 3)) == "1 pool x 3 seeds" and design(Needs(None, None, "why")) == "why"
    assert design(None) == corrected(UNKNOWN) == "–"


def test_lists_of_names():
    assert [listed(list("abc"[:k])) for k in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed(list("abcdefgh"), 3) == "a, b, c and 5 more"
    assert listed(list("abcd"), 3) == "a, b, c and d", "one more name is shorter than its number"
