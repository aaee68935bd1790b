"""Prompt and scoring of MathVista (arXiv 2310.02255) by rules.

The prompt asks for the bare answer. Other answers are read by a judge, if the suite has one, and its text is
scored by the same function. What the rules cannot read is `unparsed` and wrong.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.extract import extract

Doc = Mapping[str, Any]

_DECIMALS = {1: "one decimal place", 2: "two decimal places"}


def image(doc: Doc) -> list[Any]:
    """The one image of a question, as RGB."""
    return [doc["decoded_image"].convert("RGB")]


def text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """Question with its unit, options and the form of the answer."""
    unit = f" (Unit: {doc['unit']})" if doc["unit"] else ""
    options = [f"{letter}. {option}" for letter, option in _options(doc).items()]
    return "\n".join([doc["question"] + unit, *options, _form(doc)])


def _form(doc: Doc) -> str:
    if doc["question_type"] == "multi_choice":
        return "Answer with the option's letter from the given choices directly."
    if doc["answer_type"] == "float":
        number = f"floating-point number with {_DECIMALS[_precision(doc)]}"
        return f"Answer the question using a single {number}."
    if doc["answer_type"] == "list":
        return "Answer the question using a Python list."
    return "Answer the question using a single integer number."


def results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """1 if the value of the answer is that of the reference, with the question's precision."""
    value = _value(doc, results[0])
    right = value is not None and value == _value(doc, doc["answer"])
    return {"accuracy": float(right), "unparsed": float(value is None)}


def percent(scores: Sequence[float]) -> float:
    """Mean of scores in 0..1, on the scale 0..100."""
    return 100 * sum(scores) / len(scores)


def _value(doc: Doc, answer: str) -> Any:
    """The value that a text states: an option, an integer, a rounded float or a list; None if it has none."""
    if doc["question_type"] == "multi_choice":
        return _option(answer, _options(doc))
    if doc["answer_type"] == "list":
        return _numbers(answer)
    number = extract("number", answer)
    if number is None:
        return None
    if doc["answer_type"] == "integer":
        return int(float(number))
    return round(float(number), _precision(doc))


def _option(answer: str, options: Mapping[str, str]) -> str | None:
    """The text of the option that is named; its exact text comes before a letter."""
    if answer in options.values():
        return answer
    letter = extract("choice", answer, list(options.values()))
    return None if letter is None else options[letter.upper()]


def _options(doc: Doc) -> dict[str, str]:
    return {chr(ord("A") + at): option for at, option in enumerate(doc["choices"] or ())}


def _numbers(answer: str) -> list[float] | None:
    """The numbers of the last list in a text, such as "[2007, 2008]"."""
    found = re.findall(r"\[[-+\d.,\s]*\]", answer)
    try:
        return [float(number) for number in ast.literal_eval(found[-1])] if found else None
    except (SyntaxError, ValueError, TypeError):
        return None


def _precision(doc: Doc) -> int:
    """The number of decimals, which the data hold as a float. Raises ValueError if the question has none."""
    if doc["precision"] is None or int(doc["precision"]) not in _DECIMALS:
        raise ValueError(f"MathVista question {doc['pid']}: its precision {doc['precision']} must be 1 or 2")
    return int(doc["precision"])
