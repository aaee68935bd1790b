"""The shuffled-image control: every question is asked with the image of another one of its benchmark.

A score that remains does not depend on the right image; score - shuffled score is the grounded gain.

Which image a question gets depends only on the benchmark's name and number of questions: all questions form
one ring, and each gets the images of the next question on it that has any. A question without images is
unchanged. If the numbers of images differ, the question's image places are filled in turn from the other's
images, repeating them when they run out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

Messages = Sequence[Mapping[str, Any]]
"""Chat messages as in `evaluation.model`."""


def ring(benchmark: str, n: int) -> list[int]:
    """The successor of each of n questions on one ring through all; for n > 1 none is its own."""
    order = sorted(range(n), key=lambda i: hashlib.sha256(f"{benchmark}/{n}/{i}".encode()).digest())
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [following[i] for i in range(n)]


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
