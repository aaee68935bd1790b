"""Validation items that a targeted selector may see: they must not be among the questions that are reported.

    check_items(open_suite("rules", mirror), items_of_pool(pool))
    check_disjoint({"mmstar": mirror.rows(data)}, validation)   # rows of splits with the same columns

Items are compared by content, since splits of one benchmark, and benchmarks that share images, repeat items.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.pool.images import rgb
from evaluation.arrow_cache import BATCH_ROWS
from evaluation.opened import Opened
from evaluation.questions import Messages, Questions
from evaluation.repository import MirrorError
from evaluation.shuffled import images

if TYPE_CHECKING:
    from datasets import Dataset


QUESTION = ("question", "query", "prompt")
"""Names of the columns that hold a question's text, in any case."""


def check_disjoint(
    reported: Mapping[str, "Dataset"], validation: "Dataset", question: str | Sequence[str] = "question"
) -> None:
    """Raises MirrorError if a validation item has the question and images of a reported one.

    reported: rows of each benchmark. question: the column of the question's text, or several.
    """
    columns = [question] if isinstance(question, str) else list(question)
    keys = contents(validation, columns)
    known = {key: at for at, key in reversed(list(enumerate(keys)))}
    for name, rows in reported.items():
        shared = [(known[key], at) for at, key in enumerate(contents(rows, columns)) if key in known]
        if shared:
            mine, theirs = shared[0]
            raise MirrorError(
                f"{len(shared)} of {len(rows)} questions of {name} are also validation items, the first is "
                f"row {theirs} of {name} and row {mine} of the items: take items of another split"
            )


def contents(rows: "Dataset", columns: Sequence[str]) -> list[str]:
    """A hash of the question's text and of all images' bytes for each row. Images are not decoded."""
    import pyarrow as pa
    from datasets import Image, List

    missing = [name for name in columns if name not in rows.features]
    if missing:
        raise MirrorError(f"validation items cannot be compared: no column {', '.join(missing)}")
    images = [
        name
        for name, feature in rows.features.items()
        if isinstance(feature.feature if isinstance(feature, List) else feature, Image)
    ]
    table = rows.select_columns([*columns, *images]).with_format("arrow")
    return [
        _content(row, columns, images)
        for batch in table.iter(batch_size=BATCH_ROWS)
        for row in pa.table(batch).to_pylist()
    ]


def _content(row: Mapping[str, Any], columns: Sequence[str], images: Sequence[str]) -> str:
    """The case of the question does not count."""
    state = hashlib.sha256(" ".join(str(row[name]) for name in columns).casefold().encode())
    for name in images:
        cell = row[name]
        for image in cell if isinstance(cell, list) else [cell]:
            state.update(hashlib.sha256(image["bytes"]).digest() if image else b"none")
    return state.hexdigest()


# ------------------------------------------------------------------------- items that are asked as prompts


@dataclass(frozen=True)
class Item:
    """A validation item: its name in messages, its prompt, and a function that returns its images."""

    name: str
    prompt: str
    images: Callable[[], Sequence[Any]]


def items_of_pool(folder: Path) -> list[Item]:
    """The samples of a pool as items."""
    from PIL import Image

    from curation.pool.read import Pool

    def opened(paths: Sequence[Any]) -> list[Any]:
        return [Image.open(path) if isinstance(path, str | Path) else path for path in paths]

    return [
        Item(f"item {s.id}", "\n".join(turn.question for turn in s.turns), partial(opened, s.images))
        for s in Pool.open(folder).samples()
    ]


def items_of_suite(opened: Opened) -> list[Item]:
    """The questions of a suite that are asked, as items."""
    return [
        Item(f"{part.name} {part.id(index)}", _text(part.messages(index)), partial(_pictures, part, index))
        for parts in opened.parts.values()
        for part in parts
        for index in opened.part(part).indices
    ]


def check_items(reported: Opened, items: Sequence[Item]) -> int:
    """Raises MirrorError if an item asks a reported question about the same images.

    Returns how many reported questions are alike: their text is part of an item's prompt. These, and only
    these, are decoded and compared by their pixels, so that another file format or other words around the
    question hide nothing. The limit of `reported` does not count: all of its questions are held out.
    """
    everything = "\0".join(_plain(item.prompt) for item in items)
    pixels: dict[str, tuple[str, ...]] = {}
    alike = 0
    for part in (part for parts in reported.parts.values() for part in parts):
        for index, doc in enumerate(part.docs):
            texts = [text for text in _questions(doc) if text in everything]
            if not texts:
                continue
            alike += 1
            seen = _pixels(_pictures(part, index))
            for item in (item for item in items if any(text in _plain(item.prompt) for text in texts)):
                if item.name not in pixels:
                    pixels[item.name] = _pixels(item.images())
                if pixels[item.name] == seen:
                    raise MirrorError(
                        f"validation {item.name} is question {part.id(index)} of {part.name}, which is "
                        "reported: take items of another split"
                    )
    return alike


def _questions(doc: Mapping[str, Any]) -> list[str]:
    """The question's text in the forms that the data give it. Raises MirrorError if there is none."""
    texts = [_plain(value) for name, value in doc.items() if name.casefold() in QUESTION and value]
    if not texts:
        raise MirrorError(
            f"validation items cannot be compared: the data have no column {', '.join(QUESTION)}"
        )
    return texts


def _plain(text: Any) -> str:
    """Text without its case, its white space and the places of images."""
    return " ".join(re.sub(r"<image(?: ?\d+)?>", " ", str(text).casefold()).split())


def _text(messages: Messages) -> str:
    return "\n".join(
        piece["text"] for message in messages for piece in message["content"] if piece["type"] == "text"
    )


def _pictures(part: Questions, index: int) -> list[Any]:
    return images(part.messages(index))


def _pixels(pictures: Sequence[Any]) -> tuple[str, ...]:
    """A hash of the size and pixels of each image."""
    decoded = [rgb(picture) for picture in pictures]
    return tuple(hashlib.sha256(repr(p.size).encode() + p.tobytes()).hexdigest() for p in decoded)
