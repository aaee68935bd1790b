"""What answers and judges the suites of real benchmarks in tests: models by rule, and a judge by rule."""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from benchmark_mirror import gold, wrong

from evaluation.journal import Answer

Answering = Callable[[str, Mapping[str, Any]], str]
"""The answer to a question of a task."""
GARBAGE = "§§ ..."


class Scripted:
    """Answers by rule and decodes every image; `asked` counts the questions. Its name is its identity."""

    def __init__(self, name: str, rule: Answering) -> None:
        self.rule, self.asked = rule, 0
        self.identity = {"checkpoint": name, "dtype": "none", "template": "none", "engine": "none"}

    def answers(self, questions):
        for question in questions:
            question.messages()
            self.asked += 1
            yield [(question, "hash", Answer(self.rule(question.task, question.doc), False, 1))]


def mixed(seed: str, *rules: Answering) -> Answering:
    """Each question by one of the rules, drawn by its content: it is answered alike everywhere."""

    def rule(task: str, doc: Mapping[str, Any]) -> str:
        key = f"{seed} {sorted((k, v) for k, v in doc.items() if isinstance(v, (str, int)))}"
        return rules[zlib.crc32(key.encode()) % len(rules)](task, doc)

    return rule


def in_words(task: str, doc: Mapping[str, Any]) -> str:
    """The right answer in a form that any rule of a choice benchmark reads."""
    return f"The answer is {gold(task, doc)}."


MODELS: dict[str, Answering] = {
    "oracle": gold,
    "anti-oracle": wrong,
    "garbage": lambda task, doc: GARBAGE,
    "silence": lambda task, doc: "",
}


def judged(body: Mapping[str, Any]) -> str:
    """The reply of a strict judge: the best grade for the reference, else the worst.

    Of an answer whose value is to be extracted, it reads what follows "VALUE ".
    """
    text = body["messages"][0]["content"]
    prediction = re.search(r"=== answer(?: of assistant 2)? ====\n(.*?)\n==== end", text, re.DOTALL)[1]
    if "from 1 (worst) to 10" in text:
        reference = re.search(r"=== answer of assistant 1 ====\n(.*?)\n====", text, re.DOTALL)[1]
        return "10 10" if prediction == reference else "10 1"
    if "The lowest grade is 0.0" in text:
        alternatives = re.search(r"\nReference: (.*)\n", text)[1].split("<OR>")
        whole = [all(element in prediction for element in own.split("<AND>")) for own in alternatives]
        return "1.0" if any(whole) else "0.0"
    value = re.search(r"VALUE (\S+|\[.*\])$", prediction)
    return value[1] if value else "NONE"
