"""Prompt and scoring of multiple-choice tasks: MMBench, MMT-Bench, MMMU.

Each reads an answer by its benchmark's own rules. Where those end in a random option, the answer is wrong
here and counted as `unparsed`: the same answers always give the same scores.
"""

import ast
import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Doc = Mapping[str, Any]


def image(doc: Doc) -> list[Any]:
    """The one image of a question, as RGB."""
    return [doc["image"].convert("RGB")]


def given(doc: Doc, columns: str) -> dict[str, str]:
    """The options of a question by their letters, which are its columns; empty, "nan" and null are none."""
    values = {letter: doc.get(letter) for letter in columns}
    return {letter: str(value) for letter, value in values.items() if _is_text(value)}


def _is_text(value: Any) -> bool:
    return value is not None and value == value and str(value).strip() not in ("", "nan")


def mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def percent(scores: Sequence[float]) -> float:
    """Mean of scores in 0..1, on the scale 0..100."""
    return 100 * mean(scores)


# --- MMBench ------------------------------------------------------------------------------------------

ROTATIONS = 1_000_000
"""A question's copies with rotated options have its index plus multiples of this."""

_MARKS = ".,:;()[]{}!?*_#`\"'"
_REFERENCE = 64
"""An `image` text of at most this many characters is the index of the row with the image."""


def with_images(rows: Any) -> Any:
    """Rows with `image` as an image, from an image or from the base64 text of MMBench's own tables.

    Their rotated copies hold the index of the row with the image. Raises ValueError if that does not exist.
    """
    from datasets import Image, Value

    if isinstance(rows.features["image"], Value) and "string" in rows.features["image"].dtype:
        encoded = [{"bytes": data, "path": None} for data in _decoded(rows["index"], rows["image"])]
        rows = rows.remove_columns("image").add_column("image", encoded)
    return rows.cast_column("image", Image())


def _decoded(indices: Sequence[int], texts: Sequence[str]) -> Iterator[bytes]:
    by_index = {int(index): text for index, text in zip(indices, texts, strict=True)}
    for index, text in zip(indices, texts, strict=True):
        if len(text) <= _REFERENCE:
            if not text.isdigit() or len(by_index.get(int(text), "")) <= _REFERENCE:
                raise ValueError(f"MMBench row {index}: its image refers to row {text!r}, which has none")
            text = by_index[int(text)]
        yield base64.b64decode(text)


def mmbench_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """Hint, question, options and the instruction on how to answer."""
    hint = f"{doc['hint']} " if _is_text(doc.get("hint")) else ""
    options = "\n".join(f"{letter}. {text}" for letter, text in given(doc, "ABCDE").items())
    post = lmms_eval_specific_kwargs["post_prompt"]
    return f"{hint}{doc['question']} There are several options:\n{options}\n{post}"


def mmbench_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Whether the answer to one rotation is right; `mmbench_circular` combines those of a question."""
    letter = _one_option(results[0], given(doc, "ABCDE"))
    right = float(letter == doc["answer"].strip())
    return {
        "circular_accuracy": {"index": int(doc["index"]), "score": right},
        "unparsed": float(letter is None),
    }


def _one_option(text: str, options: Mapping[str, str]) -> str | None:
    """The only option that is named, by its letter or, without one, by its text.

    A bare "A" in an answer of more than three words is an article.
    """
    words = text.split()
    labels = {word.strip(_MARKS) for word in words if word != "A" or len(words) <= 3}
    named = labels & options.keys()
    if not named:
        named = {letter for letter, option in options.items() if option.lower() in text.lower()}
    return named.pop() if len(named) == 1 else None


def mmbench_circular(items: Sequence[Mapping[str, Any]]) -> float:
    """Percentage of questions whose rotations are all right (MMBench, arXiv 2307.06281, section 4)."""
    right: dict[int, bool] = {}
    for item in items:
        question = item["index"] % ROTATIONS
        right[question] = right.get(question, True) and item["score"] == 1
    return percent([float(value) for value in right.values()])


# --- the rule of MMMU, which MMT-Bench shares -----------------------------------------------------------


def _last_named(text: str, letters: Sequence[str], forms: Sequence[str]) -> str | None:
    """The option letter that comes last, in the first of the forms that occurs, such as "({})" for "(B)"."""
    text = f" {text.strip().strip(_ENDS)} "
    for form in forms:
        places = {text.rfind(form.format(letter)): letter for letter in letters}
        if max(places) >= 0:
            return places[max(places)]
    return None


_ENDS = ",.!?;:' "


def mmt_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """Question, options and the instruction on how to answer."""
    options = "\n".join(f"{letter}: {text.strip()}" for letter, text in given(doc, "ABCDEFGHI").items())
    return f"Question: {doc['question'].strip()}\n{options}{lmms_eval_specific_kwargs['post_prompt']}"


def mmt_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    letter = _last_named(results[0], list(given(doc, "ABCDEFGHI")), ("({})", " {} ", "{}."))
    return {"accuracy": float(letter == doc["answer"].strip()), "unparsed": float(letter is None)}


# --- MMMU ----------------------------------------------------------------------------------------------

_IMAGE_TAG = re.compile(r"<image (\d+)>")


def mmmu_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """Question, options and the instruction on how to answer; images are tags such as <image 1>."""
    options = _mmmu_options(doc)
    if doc["question_type"] != "multiple-choice":
        return f"{doc['question']}\n\n{lmms_eval_specific_kwargs['open_ended_prompt']}"
    listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    return f"{doc['question']}\n{listed}\n\n{lmms_eval_specific_kwargs['multiple_choice_prompt']}"


def mmmu_messages(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str]) -> list[dict[str, Any]]:
    """The prompt with each image where its tag stands; a tag that is repeated shows its image again.

    Raises ValueError for a tag without an image.
    """
    parts = _IMAGE_TAG.split(mmmu_text(doc, lmms_eval_specific_kwargs))
    content: list[dict[str, Any]] = []
    for at, part in enumerate(parts):
        if at % 2:
            content.append({"type": "image", "url": _mmmu_image(doc, part)})
        elif part.strip():
            content.append({"type": "text", "text": part.strip()})
    return [{"role": "user", "content": content}]


def _mmmu_image(doc: Doc, number: str) -> Any:
    picture = doc.get(f"image_{number}")
    if picture is None:
        raise ValueError(f"MMMU question {doc['id']} names <image {number}> but has no image_{number}")
    return picture.convert("RGB")


def _mmmu_options(doc: Doc) -> dict[str, str]:
    """The options by letter; the data hold them as the text of a Python list."""
    options = ast.literal_eval(doc["options"]) if doc["options"] else []
    return {chr(ord("A") + at): str(option) for at, option in enumerate(options)}


def mmmu_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Choice questions by the letter that is named, open ones by MMMU's comparison of texts and numbers."""
    if doc["question_type"] != "multiple-choice":
        return {"mmmu_acc": _mmmu_open(doc["answer"], results[0]), "unparsed": float(not results[0].strip())}
    letter = _mmmu_letter(results[0], _mmmu_options(doc))
    return {"mmmu_acc": float(letter == doc["answer"]), "unparsed": float(letter is None)}


def _mmmu_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that comes last, or in an answer of more than five words the option whose text does."""
    letter = _last_named(text, list(options), ("({})", " {} ", "{} ", "{}."))
    if letter is not None or len(text.split()) <= 5:
        return letter
    found = [(text.lower().rfind(option.lower()), letter) for letter, option in options.items()]
    at, last = max(found)
    return last if at >= 0 else None


def _mmmu_open(answer: str, text: str) -> float:
    """1 if the answer is right. The reference may be the text of a Python list, any string of which is."""
    from lmms_eval.tasks.mmmu.utils import eval_open, parse_open_response

    answers = ast.literal_eval(answer) if re.match(r"\s*\[\s*['\"]", answer) else answer
    return float(bool(text.strip()) and eval_open(answers, parse_open_response(text)))
