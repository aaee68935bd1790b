"""Parse one LLaVA record into turns and image paths, or give the reason why it cannot be used."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from curation.pool.sample import IMAGE_PLACEHOLDER, Turn

REASONS: dict[str, str] = {
    "broken_json": "the record is not valid JSON, is nested too deeply, or has an integer of too many digits",
    "not_an_object": "the record is not a JSON object",
    "bad_conversations": "`conversations` is not a list of {from, value} texts",
    "odd_roles": "a speaker is none of human, gpt and, in the first place, system; or human and gpt do not "
    "alternate",
    "no_assistant_turn": "no question has an answer",
    "empty_answer": "an answer has no text",
    "bad_image_field": "`image` is neither a path nor a list of paths, or the record has a video",
    "image_count_mismatch": "the questions hold more or fewer <image> placeholders than there are images, "
    "or a system prompt holds one",
    "placeholder_in_answer": "an answer holds an <image> placeholder",
    "bad_unicode": "the text holds a lone surrogate, which no tokenizer accepts",
    "image_outside": "the image path, or a link at its end, leaves the image folder",
    "image_missing": "the image file does not exist",
    "image_empty": "the image file is empty",
    "image_broken": "the image file cannot be read as an image",
    "image_truncated": "the image file is truncated",
    "duplicate_record": "the same images and conversation as an earlier record, under the same id or none",
    "duplicate_id": "the id equals the content hash of another record",
}
"""Reason code -> meaning."""

_HUMAN, _ASSISTANT, _SYSTEM = {"human", "user"}, {"gpt", "assistant"}, "system"
_SOURCE_KEYS = ("source", "data_source", "image_source")


class BadRecord(ValueError):
    """A record that goes to quarantine; `reason` is a code of `REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Record:
    """The parts of a record that the pool uses.

    `system`: the text of a system turn before the others; None without one, or with a blank one.
    `content_hash`: 32 hex digits over image paths and conversation. `skipped_first`, `skipped_last`: whether
    an answer before the first question, or a question after the last answer, was left out.
    """

    id: str | None
    source: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    content_hash: str
    skipped_first: bool
    skipped_last: bool
    system: str | None = None

    def text(self) -> str:
        """System prompt, questions and answers without image placeholders, for counting tokens."""
        parts = (
            part
            for turn in self.turns
            for part in (turn.question.replace(IMAGE_PLACEHOLDER, ""), turn.answer)
        )
        return "\n".join([*([self.system] if self.system else []), *parts])


def parse_record(value: Any) -> Record:
    """Check everything of a record but its image files. Raises BadRecord.

    As in LLaVA's own loader, an answer before the first question and a question after the last answer are
    skipped (the caller counts both). If the record names no source, its source is the first folder of its
    first image, else `unknown`, or `text_only` without images.
    """
    if not isinstance(value, dict):
        raise BadRecord("not_an_object", type(value).__name__)
    images = _images(value)
    spoken = _spoken(value.get("conversations"))
    digest = _content_hash(images, spoken)
    system, dialogue = _without_system(spoken)
    turns = _pair(dialogue)
    _check_turns(turns, len(images))
    first, last = dialogue[0][0] in _ASSISTANT, dialogue[-1][0] in _HUMAN
    return Record(record_id(value), _source(value, images), images, turns, digest, first, last, system)


def record_id(value: Any) -> str | None:
    """The record's own id as text; None if it has none."""
    own = value.get("id") if isinstance(value, dict) else None
    if isinstance(own, bool) or not isinstance(own, str | int):
        return None
    text = str(own).strip()
    return text.encode("utf-8", "replace").decode() if text else None


def _images(value: dict[str, Any]) -> tuple[str, ...]:
    if value.get("video"):
        raise BadRecord("bad_image_field", "video samples are not supported")
    field = value.get("image")
    paths = [] if field is None else [field] if isinstance(field, str) else field
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise BadRecord("bad_image_field", f"image is {json.dumps(field)[:80]}")
    return tuple(paths)


def _spoken(conversations: Any) -> list[tuple[str, str]]:
    if not isinstance(conversations, list) or not conversations:
        raise BadRecord(
            "bad_conversations", f"conversations is {type(conversations).__name__}, empty or missing"
        )
    spoken = []
    for number, turn in enumerate(conversations):
        role, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(text, str):
            raise BadRecord("bad_conversations", f"turn {number} must be {{from: text, value: text}}")
        if role not in _HUMAN and role not in _ASSISTANT and (number or role != _SYSTEM):
            raise BadRecord("odd_roles", f"turn {number} is from {role[:40]!r}")
        spoken.append((role, text))
    return spoken


def _without_system(spoken: list[tuple[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    """(the system prompt or None, the turns after it)."""
    if spoken[0][0] != _SYSTEM:
        return None, spoken
    text = spoken[0][1]
    if IMAGE_PLACEHOLDER in text:
        raise BadRecord("image_count_mismatch", f"an {IMAGE_PLACEHOLDER} placeholder in the system prompt")
    if len(spoken) == 1:
        raise BadRecord("no_assistant_turn", "a system prompt alone")
    return text if text.strip() else None, spoken[1:]


def _pair(spoken: list[tuple[str, str]]) -> tuple[Turn, ...]:
    body = spoken[1:] if spoken[0][0] in _ASSISTANT else spoken
    body = body[:-1] if body and body[-1][0] in _HUMAN else body
    if not body:
        raise BadRecord("no_assistant_turn", f"{len(spoken)} turn(s), no question with an answer")
    for number, (role, _) in enumerate(body):
        if role not in (_ASSISTANT if number % 2 else _HUMAN):
            raise BadRecord(
                "odd_roles", f"human and gpt do not alternate: {' '.join(r for r, _ in spoken)[:80]}"
            )
    return tuple(Turn(body[i][1], body[i + 1][1]) for i in range(0, len(body), 2))


def _check_turns(turns: tuple[Turn, ...], images: int) -> None:
    for number, turn in enumerate(turns):
        if not turn.answer.strip():
            raise BadRecord("empty_answer", f"answer {number}")
        if IMAGE_PLACEHOLDER in turn.answer:
            raise BadRecord("placeholder_in_answer", f"answer {number}")
    placeholders = sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in turns)
    if placeholders != images:
        raise BadRecord("image_count_mismatch", f"{placeholders} <image> placeholder(s), {images} image(s)")


def _content_hash(images: tuple[str, ...], spoken: list[tuple[str, str]]) -> str:
    text = json.dumps([images, spoken], ensure_ascii=False, separators=(",", ":"))
    try:
        return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()
    except UnicodeEncodeError as error:
        raise BadRecord("bad_unicode", f"lone surrogate {error.object[error.start]!a}") from None


def _source(value: dict[str, Any], images: tuple[str, ...]) -> str:
    named = next((value[key] for key in _SOURCE_KEYS if isinstance(value.get(key), str) and value[key]), None)
    if named is not None:
        return named.encode("utf-8", "replace").decode()
    if not images:
        return "text_only"
    parts = PurePosixPath(images[0]).parts
    return parts[0] if len(parts) > 1 and parts[0] not in ("/", "..", ".") else "unknown"
