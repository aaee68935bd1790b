"""The judges' prompts: the shipped files, what is asked, how replies are read, which answers need a judge."""

import re
from pathlib import Path

import pytest

from evaluation import judges
from evaluation.extract import extract
from evaluation.judge_prompt import PromptError, fields_of, load_prompt, prompt_of
from evaluation.suite import Judge

NAMES = sorted(file.stem for file in Path(judges.__file__).parent.glob("*.yaml"))
YES_NO = {"choices": ["yes", "no", "not enough information"], "answer_type": "text"}
FIELDS = {"question": "How many?", "reference": "4", "prediction": "There are four.", "context": ["a", "b"]}


def math(kind, prediction="", choices=None):
    return {"question": "q", "answer_type": kind, "choices": choices, "prediction": prediction}


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_prompt_loads_under_its_name_and_says_what_differs(name):
    prompt = load_prompt(name)
    assert prompt.name == name and prompt.deviations and "arXiv" in prompt.source
    assert re.fullmatch("[0-9a-f]{64}", prompt.sha256) and prompt.file == f"judges/{name}.yaml"
    assert f"`{name}`" in judges.__doc__
    text = prompt.text(FIELDS | {"answer_type": "integer"})
    assert "How many?" in text and "There are four." in text and "{" not in text
    assert prompt.form(FIELDS | {"answer_type": "integer"}).ask in text


@pytest.mark.parametrize(
    ("reply", "grade"),
    [("0.7", 0.7), (" 1.0\n", 1.0), ("0", 0.0), ("1", 1.0), ("0.0", 0.0)]
    + [(reply, None) for reply in ("7", "", "0.75", "1.1", "-0.1", "Score: 0.7", "0.7.", "0.7 0.8", "nan")]
    + [("\u0660.\u0667", None)],
)
def test_grades_of_mmvet(reply, grade):
    assert load_prompt("mmvet").read({}, reply) == grade


@pytest.mark.parametrize(
    ("reply", "ratio"),
    [("8 6", 0.75), ("10, 5", 0.5), ("4\n8", 2.0), ("0 5", None), ("8", None), ("8 11", None), ("87", None)],
)
def test_relative_grades_of_llava_w(reply, ratio):
    assert load_prompt("llava_w").read({}, reply) == ratio


@pytest.mark.parametrize(
    ("fields", "reply", "value"),
    [
        (YES_NO, "B", "no"),
        (YES_NO, "(A)", "yes"),
        (YES_NO, "D", None),  # there are three choices
        (YES_NO, "no", None),
        (YES_NO, "NONE", ""),
        (math("integer"), "-12", "-12"),
        (math("integer"), "1.5", None),
        (math("integer"), "12 apples", None),
        (math("float"), "1.5", "1.5"),
        (math("float"), "B", None),
        (math("list"), "[1, 2.5]", "[1, 2.5]"),
        (math("list"), "1, 2", None),
        (math("list"), "NONE", ""),
    ],
)
def test_values_of_mathvista(fields, reply, value):
    assert load_prompt("mathvista").read(fields, reply) == value


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        (math("integer", "4"), False),
        (math("integer", " 4\n"), False),
        (math("integer", "4 apples"), True),
        (math("integer", "4.0"), True),
        (math("float", "1.20"), False),
        (math("float", ".5"), True),
        (math("list", "[1, 2]"), False),
        (math("list", "1, 2"), True),
        (math("integer", ""), False),
        (math("integer", "NONE"), True),
        (YES_NO | {"prediction": "B"}, False),
        (YES_NO | {"prediction": "(B)"}, False),
        (YES_NO | {"prediction": "No."}, False),
        (YES_NO | {"prediction": "F"}, True),
        (YES_NO | {"prediction": "yes and no"}, True),
        (math("text", "two", ["two", "Two"]), True),  # two choices have this text
    ],
)
def test_only_answers_that_are_no_bare_values_need_a_judge_that_extracts(fields, needed):
    assert load_prompt("mathvista").needs_judge(fields) == needed
    assert load_prompt("mmvet").needs_judge(fields)


@pytest.mark.parametrize("value", ["4", "-12", "+5", "1.20", "0.5"])
def test_bare_numbers_are_read_by_the_rules(value):
    kind = "float" if "." in value else "integer"
    assert not load_prompt("mathvista").needs_judge(math(kind, value))
    assert float(extract("number", value)) == float(value)


def test_texts_of_data_stay_as_they_are_and_long_answers_lose_their_middle():
    prompt = load_prompt("mmvet")
    text = prompt.text(FIELDS | {"prediction": "{reference} 100% {0} \ud800", "question": "{x}?"})
    assert "{reference} 100% {0} ?" in text and "{x}?" in text
    text.encode()
    long = prompt.text(FIELDS | {"prediction": "B" * 9_000 + "E" * 9_000})
    assert "[... 6000 characters left out ...]" in long and "B" * 6_000 in long and "E" * 6_000 in long
    choices = load_prompt("mathvista").text(math("text", "x", ["left", "right"]))
    assert "(A) left\n(B) right" in choices and "the letter of the choice" in choices


def test_requests_without_a_field_are_refused():
    with pytest.raises(PromptError, match=r"judges/mmvet.yaml needs the field reference, the request has"):
        load_prompt("mmvet").text({"question": "q", "prediction": "p", "reference": None})
    with pytest.raises(PromptError, match=r"judges/mathvista.yaml has no form of reply for .* 'text'"):
        load_prompt("mathvista").text(math("text"))


def test_a_suite_must_name_a_prompt_that_fits_and_columns_that_exist():
    judge = Judge(kind="score", prompt="mmvet", fields={"question": "q", "reference": "gold"})
    assert prompt_of(judge).name == "mmvet"
    assert fields_of(judge, {"q": 1, "gold": "g", "more": 2}, "p") == {
        "question": 1,
        "reference": "g",
        "prediction": "p",
    }
    with pytest.raises(PromptError, match="no column gold"):
        fields_of(judge, {"q": 1}, "p")
    for changes, message in [
        ({"kind": "extract"}, "is of kind score, the suite wants kind extract"),
        ({"prompt": "nosuch"}, "judge prompt 'nosuch' does not exist: shipped are llava_w, mathvista, mmvet"),
        ({"fields": {"question": "q"}}, "judge.fields lack reference|needs the column of reference"),
        ({"fields": judge.fields | {"refrence": "q"}}, "no variable refrence"),
    ]:
        with pytest.raises(PromptError, match=message):
            prompt_of(judge.model_copy(update=changes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{reference}", "{refrence}", "unknown variable refrence"),
        ("{reference}", "{reference!r}", "must be a plain name in braces"),
        ("{reference}", "{0}", "must be a plain name in braces"),
        ("{prediction}", "", "the prompt lacks prediction"),
        ("(?P<value>", "(", "named groups of the grammar must be value"),
        ("(?P<value>", "((?P<value>", "not a regular expression"),
        ("value: number", "value: text", "the value of kind score is a number or ratio"),
        ("value: number", "value: choice", "needs {choices} in the prompt"),
        ("max_tokens: 16", "max_tokens: 0", "max_tokens"),
        ("max_tokens: 16", "sha256: x", "without file, sha256"),
        ("kind: score", "kind: compare", "kind"),
        ("kind: score", "kind: score\nselect: answer_type", "for several forms"),
        ("kind: score", "kind: [", "not valid YAML"),
        ("kind: score", "kind: score\nmore: 1", "more: Extra inputs"),
    ],
)
def test_a_wrong_prompt_file_is_named_with_its_problem(old, new, message, tmp_path):
    content = judges.path_of("mmvet").read_text()
    assert old in content
    path = tmp_path / "own.yaml"
    path.write_text(content.replace(old, new))
    with pytest.raises(PromptError, match=rf"own\.yaml.*{re.escape(message)}"):
        load_prompt(path)
    path.write_text(content.replace("0.0 (nothing", "0.0 (none"))
    assert load_prompt(path).sha256 != load_prompt("mmvet").sha256
