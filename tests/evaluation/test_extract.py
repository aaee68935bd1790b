"""Styles in which the same answer comes, for each kind of question, and wrong answers that must not score."""

import pytest

from evaluation.extract import extract, score

OPTIONS = ["cat", "dog", "red car", "car"]
RIGHT = {
    ("choice", "b"): [
        "b",
        "B",
        "B.",
        "(B)",
        "b)",
        "b ) dog",
        "B. dog",
        "B: dog",
        "b dog",
        "(b) dog",
        "**B**",
        "**B. dog**",
        "dog",
        "Dog.",
        "a dog",
        "The answer is B",
        "the answer is (b).",
        "Answer: b",
        "answer: dog",
        "Option B",
        "option b is correct",
        "The correct option is b.",
        "It is a dog.",
        "the animal is the dog .",
        "I pick b",
        "b is the answer",
        "dog is the correct answer.",
        "It has four legs and barks, so b",
        "the tail is long so the answer is dog",
        "\\boxed{B}",
        "$B$",
        "`b`",
        "<think>maybe a</think> b",
        "( b )",
        "B, because it barks",
        "the answer is b . dog",
        "it barks . therefore , the answer is b .",
        "B\n",
        " b",
        "\uff22",
        "letter b",
        "a) no cat? wrong\nanswer: b",
    ],
    ("choice", "a"): [
        "a",
        "A.",
        "(A)",
        "a cat",
        "the answer is a",
        "the answer is a.",
        "so a",
        "option a",
        "a: cat",
        "cat",
    ],
    ("choice", "c"): ["c", "red car", "the red car.", "a red car", "C. red car", "It is a red car"],
    ("choice", "d"): ["d", "car", "a car", "The car."],
    ("word", "dog"): [
        "dog",
        "Dog",
        "Dog.",
        "a dog",
        "the dog",
        "The answer is dog",
        "The answer is a dog.",
        "Answer: dog",
        "It is a dog.",
        "It's a dog",
        "This is a dog!",
        "There is a dog.",
        "I see a dog",
        "The animal is a dog.",
        "**dog**",
        '"dog"',
        "'dog'",
        "dog is the answer",
        "the image shows a dog",
        "a dog on the left",
        "there is a dog in the image.",
        "final answer: dog",
        "it barks so dog",
        "it has a tail and it barks so the answer is dog .",
        "dog, because it barks",
        "I think it is a dog",
        "dog\n",
        "The answer is dog. It is brown.",
        "A dog in the top left corner",
        "answer dog",
    ],
    ("word", "left"): [
        "left",
        "Left.",
        "left has 3 and right has 1 so left",
        "left has 3 and right has 1, so the answer is left.",
        "on the left",
        "It is on the left.",
        "the left",
        "The left side has more.",
        "left is bigger",
        "so left",
        "left because it has more",
        "left is the biggest",
        "left is higher",
        "The left one is heavier.",
        "left has the most",
        "3 > 1 . therefore left",
    ],
    ("word", "hammer"): [
        "hammer",
        "it is hammer .",
        "It is a hammer",
        "the biggest thing is hammer",
        "the tool is the hammer",
    ],
    ("word", "two dogs"): ["2 dogs", "Two dogs.", "there are two dogs"],
    ("number", "3"): [
        "3",
        "three",
        "Three.",
        "3.",
        "3.0",
        "There are 3 dogs.",
        "there are three dogs",
        "The answer is 3",
        "answer: three",
        "2 + 1 = 3",
        "2 plus 1 is 3 so 3",
        "2 + 1 = 3, so the answer is 3.",
        "**3**",
        "3 apples",
        "3 cm",
        "3%",
        "It is three.",
        "left has 1 and right has 2 so 3",
        "\\boxed{3}",
    ],
    ("number", "0"): ["0", "zero", "none", "There are no dogs."],
    ("number", "21"): ["21", "twenty-one", "twenty one"],
    ("number", "1000"): ["1,000", "1000"],
    ("number", "-2"): ["-2", "minus 2", "minus two"],
    ("number", "2.5"): ["2.5", "It is 2.5."],
    ("yes_no", "yes"): [
        "yes",
        "Yes",
        "Yes.",
        "yes, there is a dog",
        "The answer is yes",
        "answer: yes",
        "**Yes**",
        "I think yes",
        "true",
        "There is a dog.",
        "It is red.",
        "that is correct",
        "so yes",
        "there's a dog",
        "Yes, there is no doubt",
    ],
    ("yes_no", "no"): [
        "no",
        "No.",
        "No, there is no dog",
        "no there is not",
        "The answer is no",
        "answer: no.",
        "False",
        "There is no dog.",
        "There isn't a dog",
        "it is not red",
        "so no",
        "I would say no",
        "nope",
        "There are no dogs here",
    ],
    ("coordinate", "b3"): [
        "b3",
        "B3",
        "(b3)",
        "b 3",
        "(b, 3)",
        "B-3",
        "the answer is b3",
        "It is in b3.",
        "cell b3",
        "column b, row 3",
        "row 3, column b",
        "row 3 column 2",
        "column 2 row 3",
        "at B3.",
        "**b3**",
        "3b",
        "b three",
        "The dog is at b3",
        "so b3",
        "a dog at b3",
    ],
    ("coordinate", "a1"): ["a1", "(a, 1)", "a 1", "at a1"],
    ("spell", "c a t"): [
        "c a t",
        "cat",
        "Cat.",
        "CAT",
        "C-A-T",
        "c, a, t",
        "c.a.t.",
        "The word is cat",
        "it says 'cat'",
        "the letters are c a t",
        "The answer is c a t .",
        "it reads CAT",
        "**c a t**",
        "the word is c-a-t",
        "The text says cat.",
        "answer: cat",
    ],
    ("spell", "a c t"): ["a c t", "act", "the word is a c t"],
    ("spell", "x7b"): ["x 7 b", "x7b", "X7B."],
    ("facts", "a1 dog ; b2 red car"): [
        "a1 dog ; b2 red car",
        "b2 red car; a1 dog",
        "a1: dog, b2: red car",
        "A1 dog. B2 red car.",
        "- a1: dog\n- b2: red car",
        "a1 dog b2 red car",
        "a dog at a1 and a red car at b2",
        "there is a dog at a1 and a red car in b2 .",
        "dog (a1), red car (b2)",
        "a 1 dog ; b 2 red car",
        "cell a1 contains a dog; cell b2 contains a red car",
        "a1 is a dog and b2 is a red car",
        "a1 dog ; a1 dog ; b2 red car",
        "a1 = dog, b2 = red car",
        "a1 dog and b2 red car",
        "The answer is a1 dog ; b2 red car.",
        "answer: a dog at a1, a red car at b2",
    ],
}
WRONG = {
    ("choice", "b"): [
        "a",
        "c",
        "cat",
        "(a)",
        "the answer is a",
        "the answer is cat",
        "car",
        "so a",
        "red car",
        "A dogma",
        "e",
    ],
    ("choice", "a"): ["a dog", "b", "it is a dog", "car"],
    ("choice", "c"): ["car", "d"],
    ("choice", "d"): ["red car", "c"],
    ("word", "dog"): [
        "cat",
        "the answer is cat",
        "hot dog",
        "dogs and cats",
        "dog and cat",
        "dog, cat",
        "dog house",
        "it barks so cat",
        "no dog",
        "it is a dog house",
        "dogma",
        "left has a dog and right has a cat so cat",
        "house",
    ],
    ("word", "left"): [
        "right",
        "left has 3 and right has 1 so right",
        "The right side has more.",
        "top left",
    ],
    ("number", "3"): [
        "4",
        "four",
        "13",
        "33",
        "3.5",
        "2 + 1 = 4",
        "thirty",
        "thirteen",
        "-3",
        "the answer is 2",
        "3 + 1 = 4",
        "1000",
    ],
    ("yes_no", "yes"): [
        "no",
        "No, yes-men do not count",
        "There is no dog.",
        "The answer is no",
        "it is not a dog",
    ],
    ("yes_no", "no"): ["yes", "There is a dog.", "Yes."],
    ("coordinate", "b3"): ["b2", "a3", "3", "row 2 column b", "c3", "b33", "bb3"],
    ("spell", "c a t"): ["c a r", "car", "cats", "c a t s", "tac", "c a", "at"],
}
AMBIGUOUS = {
    ("choice", "b"): [
        "",
        "a or b",
        "b or a",
        "A, B",
        "both a and b",
        "cat or dog",
        "B. cat",
        "(A) dog",
        "the answer is a. the answer is b.",
        "not b",
        "It is not a dog",
        "I don't know",
        "all of them",
        "fish",
        "...",
        "a b c d",
        "a) cat b) dog c) red car d) car",
    ],
    ("word", "dog"): [
        "",
        "dog or cat",
        "not a dog",
        "It is not a dog",
        "I don't know",
        "dog/cat",
        "dog. cat.",
        "?",
        "isn't a dog",
        "the answer is dog. the answer is cat.",
    ],
    ("number", "3"): [
        "",
        "3 or 4",
        "some",
        "many",
        "2 and 1",
        "2, 3, 4",
        "not 3",
        "the answer is 3. the answer is 4.",
    ],
    ("yes_no", "yes"): [
        "",
        "yes and no",
        "yes or no",
        "maybe",
        "dog",
        "not sure",
        "I can't tell",
        "Yes. No.",
        "the answer is dog",
        "the answer is yes. the answer is no.",
    ],
    ("coordinate", "b3"): [
        "",
        "b3 or b4",
        "b",
        "top left",
        "not b3",
        "(2,3)",
        "a1 b3",
        "the answer is b3. the answer is b4.",
    ],
    ("spell", "c a t"): [
        "",
        "c a t or c a r",
        "the cat sat here",
        "nothing to read",
        "not cat",
        "c a t. d o g.",
    ],
    ("facts", "a1 dog ; b2 cat"): ["", "a dog and a cat", "yes", "no dog at a1"],
}


def _cases(table: dict) -> list:
    return [
        pytest.param(kind, answer, text, id=f"{kind}-{answer}-{text!r}")
        for (kind, answer), texts in table.items()
        for text in texts
    ]


def _score(kind: str, text: str, answer: str):
    return score(kind, text, answer, OPTIONS if kind == "choice" else ())


@pytest.mark.parametrize("kind, answer, text", _cases(RIGHT))
def test_right_answer_scores_in_every_style(kind, answer, text):
    result = _score(kind, text, answer)
    assert (result.value, result.unparsed) == (1.0, False), result


@pytest.mark.parametrize("kind, answer, text", _cases(WRONG))
def test_wrong_answer_never_scores(kind, answer, text):
    assert _score(kind, text, answer).value == 0.0


@pytest.mark.parametrize("kind, answer, text", _cases(AMBIGUOUS))
def test_ambiguous_answer_is_unparsed(kind, answer, text):
    result = _score(kind, text, answer)
    assert (result.extracted, result.value) == (None, 0.0)


@pytest.mark.parametrize(
    "said, f1",
    [
        ("a1 dog", 2 / 3),
        ("a1 dog ; b2 bird", 0.5),
        ("a1 cat ; b2 dog", 0.0),
        ("a1 dog ; b2 cat ; c3 sun", 0.8),
        ("a1 dog ; a1 cat ; a1 sun ; b2 cat", 2 / 6),
        ("c1 dog", 0.0),
        ("b2 dog ; a1 cat", 0.0),
    ],
)
def test_facts_are_scored_by_f1_and_hedging_one_cell_earns_nothing(said, f1):
    assert score("facts", said, "a1 dog ; b2 cat").value == pytest.approx(f1)


def test_two_things_of_several_words_in_one_cell_are_a_hedge():
    assert score("facts", "a1 red car ; a1 big car", "a1 red car").value == 0.0


def test_the_number_after_the_last_equals_sign_is_the_answer():
    assert extract("number", "2 + 3 = 4 + 1 = 5") == "5"


def test_extraction_does_not_depend_on_the_reference():
    assert extract("choice", "The answer is (C).", OPTIONS) == "c"
    assert extract("facts", "B2: cat, a1: the dog") == "a1 dog ; b2 cat"


def test_numeric_options_are_matched_by_value():
    assert score("choice", "three", "b", ["2", "3", "13"]).value == 1.0
    assert score("choice", "13", "b", ["2", "3", "13"]).value == 0.0


def test_options_that_are_single_letters_are_chosen_by_label():
    assert extract("choice", "a", ["k", "a", "m"]) == "a"
    assert extract("choice", "(b)", ["k", "a", "m"]) == "b"
    assert extract("choice", "m", ["k", "a", "m"]) == "c"


@pytest.mark.parametrize(
    "kind, answer, options", [("choice", "z", ["x", "y"]), ("number", "many", ()), ("coordinate", "left", ())]
)
def test_broken_reference_is_an_error_not_a_zero(kind, answer, options):
    with pytest.raises(ValueError, match="reference"):
        score(kind, "whatever", answer, options)


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="the kind of a question must be one of choice, word"):
        score("essay", "x", "x")


# ------------------------------------------------------------------------------ every word of every list

VOCABULARY = {
    ("word", "dog"): [
        *(
            f"{hedge}, dog"
            for hedge in "i think|i believe|i guess|i would say|probably|maybe|likely|yes|sure|ok|okay".split(
                "|"
            )
        ),
        *(
            f"foo {verb} dog"
            for verb in (
                "is are was were be show shows see say says read reads spell spells contain contains depict "
                "depicts display displays called named here's"
            ).split()
        ),
        *(f"{subject}'s dog" for subject in ("it", "that", "there", "this", "what", "he", "answer", "foo")),
        "foo looks like dog",
        *(f"{article} dog" for article in "a an the this that its his her their some".split()),
        *(f"{preposition} dog" for preposition in "on in at to".split()),
    ],
    ("word", "left"): [
        *(
            f"left is {word}"
            for word in "more less fewer most least fewest farther further farthest furthest".split()
        ),
        *(
            f"left is {stem}e{end}"
            for stem in (
                "bigg small larg tall short long high low heavi light bright dark clos near great old young "
                "fast slow wid narrow thick thinn"
            ).split()
            for end in ("r", "st")
        ),
        "left is the bigger",
        *(f"left {noun} is bigger" for noun in "one side image picture half object".split()),
        *(f"left {verb} more" for verb in "is are has have show shows contain contains".split()),
    ],
    ("word", "red car"): ["red-car", "red_car", "red  car", "red, car", "red car..."],
    ("word", "dog house"): ["dog.house"],
    ("word", "4.5 m"): ["4.5 m"],
    ("number", "0"): ["there is no dog", "there are no dogs"],
    ("number", "-3"): ["minus 3", "negative 3", "minus three"],
    ("number", "4.5"): ["4.5", "it is 4.5 m"],
    ("yes_no", "yes"): [
        *"yes yeah yep true correct affirmative".split(),
        *(f"{subject} is a dog" for subject in "there it they that this these those".split()),
        *(f"there {verb} dogs" for verb in "is are does do has have can".split()),
        "there's a dog",
        "they're dogs",
        "it is a dog",
    ],
    ("yes_no", "no"): [
        *"no nope false incorrect".split(),
        "hm, no dog",
        "well no",
        "well no, sorry",
        "no dog",
        "there isn't a dog",
        "there is no dog",
    ],
    ("coordinate", "b3"): [
        *(f"column b {word} row 3" for word in ("and", "of", "in", "at", ",")),
        *(f"row 3 {word} column b" for word in ("and", "of", "in", "at", ",")),
    ],
    ("coordinate", "i1"): ["column 9, row 1"],
    ("spell", "cat"): [
        *(
            f"{article}{noun} cat"
            for article in ("", "the ", "a ")
            for noun in "word words letter letters text".split()
        ),
        "one cat",
        "the answer is cat. dog",
    ],
    ("facts", "a1 dog"): [
        f"a1 {word} dog"
        for word in (
            "there is are a an the in at on cell contain contains has show shows of i see we image picture "
            "with position located"
        ).split()
    ],
    ("facts", "c3 dog"): ["a dog in the cell c3", "dog in a cell at c3", "an image with a dog in an cell c3"],
    ("facts", "a1 dog ; b2 cat"): [
        *(f"a dog at a1{separator}b2 cat" for separator in (";", "\n", ". ", ", ", " and ")),
        "dog a1 cat b2",
        "a1 dog b2 cat",
    ],
    ("facts", "b2 cat"): ["a1 and b2 cat", "no dog at a1; b2 cat", "not a dog at a1; b2 cat"],
}


@pytest.mark.parametrize("kind, answer, text", _cases(VOCABULARY))
def test_each_word_of_the_lists_is_read(kind, answer, text):
    assert extract(kind, text) == answer


@pytest.mark.parametrize(
    "kind, text",
    [
        *(("word", f"{word} dog") for word in "not neither nor never unsure unknown cannot don't".split()),
        *(
            ("yes_no", f"yes {word}")
            for word in (
                "maybe|perhaps|not sure|unsure|cannot|can't|don't know|not yes|not true|not correct".split(
                    "|"
                )
            )
        ),
        ("yes_no", "answer:there is a dog"),  # a statement that is announced is not a yes
        ("yes_no", "dogs are there"),
        ("yes_no", "there dogs"),
        ("number", "3b2"),
        ("facts", "not a dog at a1"),
    ],
)
def test_what_is_negated_or_undecided_is_unparsed(kind, text):
    assert extract(kind, text) is None


@pytest.mark.parametrize(
    "place", "in on at near under above below beside behind inside with to-the from next-to".split()
)
def test_a_place_after_the_answer_is_ignored(place):
    assert score("word", f"dog {place.replace('-', ' ')} grass", "dog").value == 1
    assert score("word", f"dog {place.replace('-', ' ')} grass", "grass").value == 0


@pytest.mark.parametrize(
    "text, options, answer",
    [
        ("c", ("cat", "dog"), None),
        ("(c)", ("cat", "dog"), None),
        ("it is the ox", ("ox", "pig"), "a"),
        ("it is a red car", ("red", "red car"), "b"),
        ("car or red car", ("car", "red car"), None),
        ("red car or car", ("car", "red car"), None),
        ("it is not a dog", ("not a dog", "cat"), "a"),
        ("it is not a dog", ("dog", "cat"), None),
    ],
)
def test_options_that_contain_each_other(text, options, answer):
    assert extract("choice", text, options) == answer


def test_a_choice_without_options_is_an_error():
    with pytest.raises(ValueError, match="a choice question needs its options"):
        extract("choice", "b")
