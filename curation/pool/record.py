"""Parse one record into turns and image paths, or give the reason why it cannot be used.

LLaVA's form is read here; `dialects` turns every other form into it first.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from curation.pool import dialects, sources
from curation.pool.readable import ControlTokens, control_tokens, is_empty
from curation.pool.reasons import REASONS, BadRecord
from curation.pool.sample import IMAGE_PLACEHOLDER, Turn

__all__ = [
    "DEFAULT",
    "REASONS",
    "BadRecord",
    "Record",
    "RecordOptions",
    "content_hash",
    "parse_record",
    "record_id",
    "source_of",
]

_HUMAN, _ASSISTANT, _SYSTEM = {"human", "user"}, {"gpt", "assistant"}, "system"
_SPEAKERS = _HUMAN | _ASSISTANT
_encode = msgspec.json.Encoder().encode
SOURCE_KEYS = ("source", "data_source", "image_source")


@dataclass(frozen=True)
class RecordOptions:
    """How records are read.

    `image_key`: the key of the pictures (None: `image`, else an alias of it). `source_key`: the key that
    names the source (None: `source`, `data_source`, `image_source`). `source_depth`: how many folders of the
    image's path name the source of a record that names none. `default_source`: the source of such a record
    instead, as its file's name. `control_tokens`: special tokens of the base's own tokenizer, looked for
    beside those of common templates.
    """

    image_key: str | None = None
    source_key: str | None = None
    source_depth: int = 1
    default_source: str | None = None
    control_tokens: tuple[str, ...] = ()


DEFAULT = RecordOptions()


class Record(NamedTuple):
    """The parts of a record that the pool uses.

    `system`: the system prompt; None without one, or with a blank one. `content_hash`: 32 hex digits over
    image paths and conversation, the same for a conversation in any form. `skipped_first`, `skipped_last`:
    whether an answer before the first question, or a question after the last answer, was left out.
    `unknown`: keys of the record that were not read. `control_tokens`: how many chat-template tokens the
    texts hold (they are kept, and encoded as plain text). `folder`: the folder of the first image if only
    all folders together tell the source (`sources.resolve`); the source is then `unknown`.
    """

    id: str | None
    source: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    content_hash: str
    skipped_first: bool
    skipped_last: bool
    system: str | None = None
    unknown: tuple[str, ...] = ()
    control_tokens: int = 0
    folder: str | None = None

    def text(self) -> str:
        """System prompt, questions and answers without image placeholders, for counting tokens."""
        parts = (
            part
            for turn in self.turns
            for part in (turn.question.replace(IMAGE_PLACEHOLDER, ""), turn.answer)
        )
        return "\n".join([*([self.system] if self.system else []), *parts])


def parse_record(value: Any, options: RecordOptions = DEFAULT) -> Record:
    """Check everything of a record but its image files. Raises BadRecord.

    As in LLaVA's own loader, an answer before the first question and a question after the last answer are
    skipped (the caller counts both). If the record names no source, its source is the first folder of its
    first image, else `unknown`, or `text_only` without images.
    """
    if not isinstance(value, dict):
        raise BadRecord("not_an_object", type(value).__name__)
    plain: dict[str, Any] = value
    unknown: tuple[str, ...] = ()
    if options.image_key is not None or not dialects.is_plain(value):
        plain, unknown = dialects.canonical(value, options.image_key)
    images = _images(plain)
    spoken = _spoken(plain["conversations"])
    digest = content_hash(images, spoken)
    tokens = control_tokens(options.control_tokens)
    found = tokens if any(tokens.may_be_in(text) for _, text in spoken) else None
    system, dialogue = _without_system(spoken)
    turns = _pair(dialogue)
    _check_turns(turns, images, plain, found)
    first, last = dialogue[0][0] in _ASSISTANT, dialogue[-1][0] in _HUMAN
    source, folder = _source(value, images, options)
    count = sum(found.count(text) for _, text in spoken) if found else 0
    return Record(
        record_id(value), source, images, turns, digest, first, last, system, unknown, count, folder
    )


def record_id(value: Any, key: str = "id") -> str | None:
    """The record's own id (or another `key` that names it) as text; None if it has none."""
    own = value.get(key) if isinstance(value, dict) else None
    if isinstance(own, bool) or not isinstance(own, str | int):
        return None
    text = str(own).strip()
    if text.isascii():
        return text or None
    return text.encode("utf-8", "replace").decode()


def source_of(value: Any, options: RecordOptions = DEFAULT) -> str | None:
    """The source of a record that cannot be used; None if it does not tell."""
    if not isinstance(value, dict):
        return options.default_source
    first = next((path for path in _first_paths(value, options) if path), "")
    source, folder = _source(value, (first,) if first else (), options)
    tells_nothing = source in (sources.UNKNOWN, sources.TEXT_ONLY) and not options.default_source
    return None if tells_nothing or folder else source


def _first_paths(value: dict[str, Any], options: RecordOptions) -> Iterable[str]:
    """The first picture under each key that may name pictures, if it is one that could be read."""
    for key in (options.image_key,) if options.image_key else dialects.IMAGE_KEYS:
        try:
            yield from dialects.picture_paths(value.get(key), str(key))[:1]
        except BadRecord:
            continue


def _images(value: dict[str, Any]) -> tuple[str, ...]:
    field = value.get("image")
    if not field and (field is None or field == ""):
        if (key := dialects.turn_media(value["conversations"])) is not None:
            raise BadRecord("unknown_media_key", f"{key}, a key of a turn, looks like media, but is not read")
        return ()
    if not isinstance(field, str):
        return tuple(dialects.picture_paths(field, "image"))
    if ":" in field or len(field) > 500:
        dialects.refuse_elsewhere(field, "image")
    return (field,)


def _spoken(conversations: Any) -> list[tuple[str, str]]:
    if not isinstance(conversations, list) or not conversations:
        raise BadRecord(
            "bad_conversations", f"conversations is {type(conversations).__name__}, empty or missing"
        )
    spoken = []
    for number, turn in enumerate(conversations):
        role, text = (turn.get("from"), turn.get("value")) if type(turn) is dict else (None, None)
        if not isinstance(role, str) or not isinstance(text, str):
            raise BadRecord("bad_conversations", f"turn {number} must be {{from: text, value: text}}")
        if role not in _SPEAKERS and (number or role != _SYSTEM):
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
    turns = []
    for (asks, question), (answers, answer) in zip(body[::2], body[1::2], strict=False):
        if asks not in _HUMAN or answers not in _ASSISTANT:
            break
        turns.append(Turn(question, answer))
    if 2 * len(turns) != len(body):
        raise BadRecord("odd_roles", f"human and gpt do not alternate: {' '.join(r for r, _ in spoken)}")
    return tuple(turns)


def _check_turns(
    turns: tuple[Turn, ...], images: tuple[str, ...], value: dict[str, Any], tokens: ControlTokens | None
) -> None:
    """`tokens` is None if the texts hold no control token."""
    placeholders = 0
    for number, turn in enumerate(turns):
        question, answer = turn.question, turn.answer
        if is_empty(tokens.without(answer) if tokens else answer):
            raise BadRecord("empty_answer", f"answer {number}")
        if IMAGE_PLACEHOLDER in answer:
            raise BadRecord("placeholder_in_answer", f"answer {number}")
        if here := question.count(IMAGE_PLACEHOLDER):
            placeholders += here
        elif is_empty(tokens.without(question) if tokens else question):
            raise BadRecord("empty_question", f"question {number}")
    if placeholders != len(images):
        if value.get("image") == "":
            raise BadRecord("bad_image_field", f"image is empty, with {placeholders} <image> placeholder(s)")
        raise BadRecord(
            "image_count_mismatch", f"{placeholders} <image> placeholder(s), {len(images)} image(s)"
        )


def content_hash(images: tuple[str, ...], spoken: list[tuple[str, str]]) -> str:
    """32 hex digits over image paths and (speaker, text) pairs, as JSON without spaces and escapes.

    Raises BadRecord for a lone surrogate.
    """
    try:
        return content_digest(images, spoken).hex()
    except UnicodeEncodeError:
        raise BadRecord("bad_unicode", _surrogate([*images, *(text for _, text in spoken)])) from None


def content_digest(images: tuple[str, ...], spoken: list[tuple[str, str]]) -> bytes:
    """The 16 bytes of `content_hash`. Raises UnicodeEncodeError for a lone surrogate."""
    return hashlib.blake2b(_encode((images, spoken)), digest_size=16).digest()


def _surrogate(texts: Iterable[str]) -> str:
    found = next((c for text in texts for c in text if "\ud800" <= c <= "\udfff"), "")
    return f"lone surrogate {found!a}"


def _source(value: dict[str, Any], images: tuple[str, ...], options: RecordOptions) -> tuple[str, str | None]:
    """(source, folder to resolve later)."""
    for key in (options.source_key,) if options.source_key else SOURCE_KEYS:
        named = value.get(key)
        if named and isinstance(named, str):
            return named.encode("utf-8", "replace").decode(), None
    if options.source_key:
        return sources.UNKNOWN, None
    if options.default_source is not None:
        return options.default_source, None
    return sources.of_path(images[0], options.source_depth) if images else (sources.TEXT_ONLY, None)
