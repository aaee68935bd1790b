"""The unit that flows through everything: one conversation with 0..n images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE_PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Turn:
    """One question and its answer. The question keeps LLaVA's `<image>` placeholders where they stood."""

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """One conversation: `images` are paths (or PIL images, for data that is drawn on the fly), in placeholder order."""

    row: int
    id: str
    source: str
    images: tuple[Path | Any, ...]
    turns: tuple[Turn, ...]
