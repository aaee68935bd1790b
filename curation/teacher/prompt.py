"""What a chat model is asked for one sample, and how its answer is read.

mmSSR (arXiv 2503.13383) labels with one GPT-4o prompt; its wording is not published, this one is ours.
"""

import json
from typing import Any

from curation.pool.sample import Sample
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE, STYLES
from curation.teacher.chat import Message
from curation.teacher.messages import conversation
from curation.teacher.rubric import Label, rubric_text

# Backslashes only wrap the source: the text must stay as it is, cached answers and prompt hashes depend on
# it.
TASK = """\
You judge training data for multimodal models. You are shown one training sample: images, and a \
conversation about them.
For each capability, say how useful training on this sample would be for that capability, as a score \
from the list below. Judge the
sample as it is: if an answer is wrong or does not fit the image, every score is 0. Then name the \
interaction styles that the
answers show; there may be several.
Answer with one JSON object and nothing else: the capability names before the colons as keys with \
integer scores, and "styles", a list
of style keys."""

_HEADINGS = {"system": "System prompt:", "user": "Question:", "assistant": "Answer:"}


class InvalidAnswer(ValueError):
    """An answer that is not a valid label; the message is sent back to the teacher."""


def answer_schema(backwards: bool = False) -> dict[str, Any]:
    """The JSON schema of an answer; a server that follows it writes the scores in its order."""
    capabilities = CAPABILITY_KEYS[::-1] if backwards else CAPABILITY_KEYS
    styles = list(STYLES)[::-1] if backwards else list(STYLES)
    score = {"type": "integer", "enum": list(range(MAX_SCORE + 1))}
    return {
        "type": "object",
        "properties": {
            **{capability: dict(score) for capability in capabilities},
            "styles": {"type": "array", "items": {"type": "string", "enum": styles}},
        },
        "required": [*capabilities, "styles"],
        "additionalProperties": False,
    }


def system_prompt(task: str, backwards: bool = False) -> str:
    """The instructions, the rubric and the style keys; backwards: capabilities and styles in reverse."""
    styles = list(STYLES.items())[::-1] if backwards else STYLES.items()
    keys = "\n".join(f"{key}: {phrase}" for key, phrase in styles)
    return f"{task.strip()}\n\n{rubric_text(backwards)}\n\nStyle keys\n{keys}"


def messages_about(sample: Sample, system: str, detail: str | None) -> list[Message]:
    """The first request about a sample. Raises Unsendable."""
    parts: list[dict[str, Any]] = []
    for turn in conversation(sample, detail):
        content = turn["content"]
        content = content if isinstance(content, list) else [{"type": "text", "text": content}]
        parts += [{"type": "text", "text": _HEADINGS[turn["role"]]}, *content]
    return [{"role": "system", "content": system}, {"role": "user", "content": parts}]


def read_label(row: int, id: str, text: str) -> Label:
    """The label in an answer; Markdown fences around it are removed. Raises InvalidAnswer alone."""
    try:
        plain = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        answer = json.loads(plain, object_pairs_hook=_unambiguous)
    except RecursionError as error:
        raise InvalidAnswer("its brackets are nested too deeply") from error
    except ValueError as error:  # no JSON, or a number with thousands of digits
        raise InvalidAnswer(f"it is not JSON ({error})") from error
    if not isinstance(answer, dict) or set(answer) != {*CAPABILITY_KEYS, "styles"}:
        raise InvalidAnswer(
            f"it must be an object with exactly the keys {', '.join(CAPABILITY_KEYS)} and styles"
        )
    scores = {capability: answer[capability] for capability in CAPABILITY_KEYS}
    # type() and not isinstance(): JSON's true is no score
    if wrong := [
        capability
        for capability, score in scores.items()
        if type(score) is not int or not 0 <= score <= MAX_SCORE
    ]:
        raise InvalidAnswer(f"{wrong[0]} must be an integer from 0 to {MAX_SCORE}")
    styles = answer["styles"]
    if not isinstance(styles, list) or any(not isinstance(s, str) or s not in STYLES for s in styles):
        raise InvalidAnswer(f"styles must be a list of {', '.join(STYLES)}")
    return Label(row, id, scores, tuple(style for style in STYLES if style in styles))


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for one with two values for a key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content
