"""Text preparation: every word of every list has its effect, and nothing else has."""

import pytest

from evaluation.answer_text import (
    agree,
    clean,
    conclusions,
    digits,
    sentences,
    without_announcements,
    without_reason,
)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A Dog", "a dog"),
        ("\uff22", "b"),  # compatibility forms: full width
        ("a <think>b\nc</think> d", "a d"),
        ("a <thinking>b</thinking> d", "a d"),
        ("<b>a</b><i>c</i>", "a c"),
        (r"\boxed{b} \text{c} \mathrm {d} \textbf{e}", "b c d e"),
        ("it\u2019s the dogs\u2018 own", "it's the dogs own"),
        ("\u22123", "-3"),
        ('**a** __b__ `c` "d" \u201ce\u201d \u00abf\u00bb $g$', "a b c d e f g"),
        ("snake_case", "snake_case"),
        ("'a' don't", "a don't"),
        ("  a  \t b \n\n  c\n \n", "a b\nc"),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("zero", 0),
        ("three", 3),
        ("nineteen", 19),
        ("twenty", 20),
        ("ninety", 90),
        ("twenty one", 21),
        ("forty-two", 42),
        ("ninety-nine", 99),
        ("none", 0),
        ("a dozen", 12),
        ("hundred", 100),
        ("a hundred", 100),
        ("one hundred", 100),
    ],
)
def test_number_words_become_digits(words, number):
    assert digits(f"x {words} y") == f"x {number} y"


def test_number_words_inside_other_words_stay():
    assert digits("none of the bones is lonely, twentyone") == "0 of the bones is lonely, twentyone"
    assert digits("twenty ten") == "20 10"


def stated(text):
    """`conclusions`, without white space around the passages."""
    passages, announced = conclusions(text)
    return [passage.strip() for passage in passages], announced


ADJECTIVES = ["", "final ", "correct ", "right ", "best ", "my "]
NOUNS = ["answer", "option", "choice", "conclusion", "result"]
VERBS = [" is", ":", " =", " would be", " must be", " should be"]


@pytest.mark.parametrize(
    "phrase",
    [
        *(f"{adjective}answer is" for adjective in ADJECTIVES),
        *(f"{noun} is" for noun in NOUNS),
        *(f"answer{verb}" for verb in VERBS),
        "answer is that",
        "answer is:",
        "answer to the question is",
        "####",
    ],
)
def test_an_announcement_is_found_as_a_whole(phrase):
    assert [part.strip() for part in without_announcements(f"a {phrase} b").split("\n")] == ["a", "b"]
    assert stated(f"a {phrase} b") == (["b"], True)


def test_an_answer_at_the_beginning_of_a_line_is_an_announcement():
    assert without_announcements("answer b") == "\n b"
    assert without_announcements("x\nanswer b") == "x\n b"
    assert without_announcements("an answer b") == "an answer b"


def test_statements_that_follow_each_other_are_all_returned():
    assert stated("the answer is a. my answer is b") == (["a.", "b"], True)
    assert stated("the answer is ... answer is b") == (["b"], True)


@pytest.mark.parametrize("verb", ["is", "would be", "must be"])
@pytest.mark.parametrize(
    "rest",
    [
        *(f"the {adjective}answer" for adjective in ("", "final ", "correct ", "right ", "best ")),
        "my answer",
        "the option",
        "the choice.",
    ],
)
def test_an_announcement_may_follow_the_answer(verb, rest):
    assert conclusions(f"b {verb} {rest}") == (["b"], True)


def test_an_announcement_after_a_conclusion_keeps_only_the_conclusion():
    assert stated("it barks so b is the answer") == (["b"], True)


@pytest.mark.parametrize(
    "word", "so|therefore|thus|hence|consequently|in conclusion|in short|=>|->|\u2192".split("|")
)
def test_of_weak_announcements_the_last_one_counts(word):
    assert stated(f"so a {word} b") == (["b"], True)
    assert stated(f"a {word}{',' if word.isalpha() else ''} b") == (["b"], True)
    assert conclusions(f"a {word} ...") == ([f"a {word} ..."], False)


def test_without_an_announcement_the_whole_text_counts():
    assert conclusions("a dog") == (["a dog"], False)


def test_sentences_have_words_and_decimal_points_do_not_end_them():
    assert sentences("a dog. A cat! 3.5? b; c\n\nd") == ["a dog", "A cat", "3.5", "b", "c", "d"]
    assert sentences("a dog.") == ["a dog"]
    assert sentences("... ! \n") == []


@pytest.mark.parametrize("word", "because|since|as it|as there|which|given that|due to".split("|"))
def test_a_reason_is_cut_off_unless_it_comes_first(word):
    assert without_reason(f"dog, {word} barks\nand so") == "dog"
    assert without_reason(f"{word} barks") == f"{word} barks"


def test_only_the_first_reason_matters():
    assert without_reason("dog because x because y") == "dog"


def test_agree_ignores_texts_without_a_value():
    known = {"a": "1", "b": "2", "c": None}.get
    assert agree(["a", "c", "a"], known) == "1"
    assert agree(["a", "b"], known) is None
    assert agree(["c"], known) is None and agree([], known) is None
