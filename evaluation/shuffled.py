"""The shuffled-image control: every question is asked with the image of another one of its benchmark.

A score that remains does not depend on the right image; score - shuffled score is the grounded gain.

Which image a question gets depends only on the benchmark's name and number of questions: all questions form
one ring, and each gets the images of the next question on it that has any. A question without images is
unchanged. If the numbers of images differ, the question's image places are filled in turn from the other's
images, repeating them when they run out.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

from evaluation.questions import Messages, Question, Questions


def ring(benchmark: str, n: int) -> list[int]:
    """The successor of each of n questions on one ring through all; for n > 1 none is its own."""
    order = sorted(range(n), key=lambda i: hashlib.sha256(f"{benchmark}/{n}/{i}".encode()).digest())
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [following[i] for i in range(n)]


def donors(benchmark: str, with_images: Sequence[bool]) -> dict[int, int]:
    """For each question that has images, the next one on the ring that has any; {} if there are no two."""
    following = ring(benchmark, len(with_images))
    found = {}
    for index in (i for i, has in enumerate(with_images) if has):
        other = following[index]
        while not with_images[other]:
            other = following[other]
        if other != index:
            found[index] = other
    return found


def shuffled_question(questions: Questions, index: int, donor: int) -> Question:
    """The question with the images of question `donor`."""
    return replace(questions.question(index), messages=partial(_messages, questions, index, donor))


def _messages(questions: Questions, index: int, donor: int) -> Messages:
    messages, pictures = questions.messages(index), images(questions.messages(donor))
    return with_images(messages, pictures) if pictures else messages


def images(messages: Messages) -> list[Any]:
    """The images of a conversation, in order."""
    return [part["url"] for message in messages for part in message["content"] if part["type"] == "image"]


def with_images(messages: Messages, pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """The conversation with its image places filled from `pictures` (not empty)."""
    source = cycle(pictures)
    return [
        {
            **message,
            "content": [
                part | {"url": next(source)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]
