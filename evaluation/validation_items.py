"""Questions of a suite with their reference answers, as samples that a targeted selector looks at.

    write_items(open_suite("own_validation.yaml", mirror), out, items=20, seed=0)

A reference is what the benchmark's own scorer gives the most points for, among the forms of the task's target
and of the data's answers; a question for which none of them scores has no reference and is not used.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curation.pool.images import rgb
from evaluation.opened import Opened
from evaluation.questions import EvaluationError, Questions
from evaluation.shuffled import images

FILE = "items.json"
PLACEHOLDER = "<image>"
"""Stands for an image in a question's text, as in LLaVA's files."""
ANSWERS = ("answer", "answers")
"""Columns of the data that hold reference answers, where a task's target does not."""


def write_items(opened: Opened, out: Path, *, items: int | None, seed: int) -> dict[str, Any]:
    """Write items.json (LLaVA's format) and images/; returns the counts by part.

    items: how many of each task, drawn with `seed` (None: all). `source` of an item is its benchmark, with
    the task if there are several. Raises EvaluationError for a benchmark without any reference.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    counts: dict[str, Any] = {}
    for part in (part for parts in opened.parts.values() for part in parts):
        own, missing = _records(part, out, items, seed)
        if not own:
            raise EvaluationError(
                f"{part.name}: none of {missing} questions has a reference answer that its scorer accepts; "
                "leave this benchmark out of the validation suite"
            )
        counts[part.name] = {"items": len(own), "without_reference": missing}
        records += own
    (out / FILE).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return counts


def reference(questions: Questions, index: int) -> str | None:
    """The answer to a question that its scorer likes best; None if it accepts no form of the reference."""
    best, found = 0.0, None
    for text in dict.fromkeys(_forms(questions.answer_key(index), questions.docs[index])):
        [value] = questions.scores(questions.results([text], [questions.docs[index]]))
        if value > best:
            best, found = value, text
        if best >= 1:
            break
    return found


def _records(part: Questions, out: Path, items: int | None, seed: int) -> tuple[list[dict[str, Any]], int]:
    """(items of one task, number of questions that were passed over because they have no reference)."""
    records: list[dict[str, Any]] = []
    missing = 0
    for index in sorted(range(len(part)), key=lambda i: _draw(seed, part.name, i)):
        if len(records) == items:
            break
        answer = reference(part, index)
        text, pictures = _asked(part, index)
        if answer is None or text.count(PLACEHOLDER) != len(pictures):
            missing += 1
            continue
        records.append(_record(part.name, index, text, answer, _save(pictures, part.name, index, out)))
    return records, missing


def _draw(seed: int, name: str, index: int) -> bytes:
    return hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()


def _record(name: str, index: int, text: str, answer: str, files: list[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    pictures = {"image": files} if files else {}
    return {"id": f"{name}/{index}", "source": name, **pictures, "conversations": turns}


def _asked(part: Questions, index: int) -> tuple[str, list[Any]]:
    """(the prompt with a placeholder for each image, the images)."""
    messages = part.messages(index)
    pieces = [
        PLACEHOLDER if piece["type"] == "image" else piece["text"].strip("\n")
        for message in messages
        for piece in message["content"]
    ]
    return "\n".join(pieces), images(messages)


def _save(pictures: list[Any], name: str, index: int, out: Path) -> list[str]:
    """Write the images without loss; returns their paths relative to `out`."""
    paths = [f"images/{name.replace('/', '-')}-{index}-{k}.png" for k in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        rgb(picture).save(out / path)
    return paths


def _forms(target: Any, doc: Mapping[str, Any]) -> Iterator[str]:
    """The texts that may be meant by a task's target, and by the answers of the data; frequent ones first."""
    for value in (target, *(doc.get(column) for column in ANSWERS)):
        values = value if isinstance(value, list | tuple) else [value]
        texts = [v["answer"] if isinstance(v, Mapping) and "answer" in v else v for v in values]
        for text, _ in Counter(text for text in texts if isinstance(text, str | int | float)).most_common():
            yield str(text)
            if str(text).isdigit() and int(text) < 26:
                yield chr(ord("A") + int(text))  # the place of an option
