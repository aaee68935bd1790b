"""The uniform reading of answers: what is read, from which options, and what is unparsed."""

import math

import pytest

from evaluation.lenient import options_of, read
from evaluation.suite import Extractor

COLOURS = {"A": "red", "B": "green", "C": "blue", "D": None}
CHOICE = Extractor(kind="choice", options=("A", "B", "C", "D"))
LISTED = Extractor(kind="choice", options="choices")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "B.",
        "(B)",
        "B. green",
        "B) green",
        "b",
        "The answer is B.",
        "Answer: B",
        "**B**",
        "green",
        "Green.",
    ],
)
def test_a_choice_in_any_clothes(text):
    assert read(CHOICE, COLOURS, text) == "B"


@pytest.mark.parametrize("text", ["", "A or B", "qqqq", "D", "§§ ...", "I cannot tell.", "red and green"])
def test_a_choice_that_is_none_of_the_options_or_several(text):
    assert read(CHOICE, COLOURS, text) is None


@pytest.mark.parametrize("text", ["B", "The answer is B.", "b"])
def test_options_of_which_only_the_number_is_known(text):
    extractor = Extractor(kind="choice", options=4)
    assert read(extractor, {}, text) == "B"
    assert read(extractor, {}, "E") is None and read(extractor, {}, "It is green.") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", "Yes"), ("No.", "No"), ("Yes, there is a dog.", "Yes"), ("The answer is no", "No")],
)
def test_yes_and_no(text, value):
    assert read(Extractor(kind="yes_no"), {}, text) == value


@pytest.mark.parametrize("text", ["", "yes or no", "maybe", "§§ ..."])
def test_neither_yes_nor_no(text):
    assert read(Extractor(kind="yes_no"), {}, text) is None


@pytest.mark.parametrize(("text", "value"), [("4.50", "4.5"), ("The answer is 1,250.", "1250"), ("-3", "-3")])
def test_a_number(text, value):
    assert read(Extractor(kind="number"), {}, text) == value


@pytest.mark.parametrize("text", ["", "It is blue.", "3 or 4"])
def test_no_number_or_several(text):
    assert read(Extractor(kind="number"), {}, text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nokia", "nokia"),
        ("  University of Quito\n", "University of Quito"),
        ("The answer is nokia.", "nokia"),
        ("Answer: 1/8/93", "1/8/93"),
        ("x^{2}+1", "x^{2}+1"),
        ("$1,250.00", "$1,250.00"),
    ],
)
def test_a_free_answer_is_what_is_announced_or_the_whole_text(text, value):
    assert read(Extractor(kind="short"), {}, text) == value


@pytest.mark.parametrize("text", ["", " \n", "§§ ...", "?!"])
def test_a_free_answer_without_a_word_is_unparsed(text):
    assert read(Extractor(kind="short"), {}, text) is None


def test_an_open_question_among_choices_is_a_free_answer():
    doc = {"choices": None}
    assert read(LISTED, doc, "The answer is 42.") == "42" and read(LISTED, doc, "...") is None


def test_the_data_may_name_the_kind():
    extractor = Extractor(kind="column", options="options")
    assert read(extractor, {"kind": "choice", "options": ["cat", "dog"]}, "The answer is B.") == "b"
    assert read(extractor, {"kind": "number", "options": []}, "There are 3.") == "3"
    assert read(extractor, {"kind": "number", "options": []}, "Nothing.") is None


@pytest.mark.parametrize(
    ("options", "doc", "found"),
    [
        (None, {}, []),
        (3, {}, ["", "", ""]),
        ("choices", {"choices": ["a", "b"]}, ["a", "b"]),
        ("choices", {"choices": None}, []),
        ("choices", {"choices": "['a', 'b c']"}, ["a", "b c"]),
        ("choices", {"choices": "[]"}, []),
        ("choices", {"choices": ""}, []),
        (("A", "B", "C"), {"A": "x", "B": "nan", "C": ""}, ["x"]),
        (("A", "B", "C"), {"A": 1, "B": math.nan, "C": None}, ["1"]),
    ],
)
def test_where_options_stand(options, doc, found):
    assert options_of(Extractor(kind="choice", options=options), doc) == found


@pytest.mark.parametrize("text", ["So Good", "Just so stories", "Therefore Inc.", r"\frac{A}{B} -> C"])
def test_words_of_a_free_answer_are_no_announcement(text):
    assert read(Extractor(kind="short"), {}, text) == text


def test_what_is_announced_keeps_its_case():
    assert read(Extractor(kind="short"), {}, "The answer is: **NOKIA**.") == "NOKIA"


def test_none_is_an_option_like_any_other():
    extractor, doc = Extractor(kind="choice", options=("A", "B", "C")), {"A": "one", "B": "None", "C": "two"}
    assert options_of(extractor, doc) == ["one", "None", "two"] and read(extractor, doc, "C") == "C"
