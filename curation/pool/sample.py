"""The unit that everything works on: one conversation with 0..n images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE_PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Turn:
    """One question and its answer. The question keeps LLaVA's `<image>` placeholders in place."""

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """One conversation. `images`: paths, or PIL images of data drawn on the fly, in placeholder order.

    `system`: the system prompt that the data give; None: the model's own.
    """

    row: int
    id: str
    source: str
    images: tuple[Path | Any, ...]
    turns: tuple[Turn, ...]
    system: str | None = None
