"""Records in other forms than LLaVA's, as LLaVA records: LLaMA-Factory, ms-swift, ShareGPT, OpenAI messages.

| form | conversation | images |
| :-- | :-- | :-- |
| LLaVA, ShareGPT | `conversations`: {from, value} | `image`, or an alias such as `images` |
| LLaMA-Factory, OpenAI | `messages` or `conversations`: {role, content} | aliases; parts of a content |
| ms-swift | `query`, `response`, `history`: [[query, response], ...] | aliases |
| Alpaca | `instruction`, `input`, `output`, `history` | aliases |

A conversation may also be JSON in a text, or a list for each key of its turns (`{from: [...], value:
[...]}`), as tables hold it. Each form may have a `system` prompt as a key of its own. A key that is null or
an empty list counts as absent (tables have every key in every row).
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from curation.pool.reasons import BadRecord, short
from curation.pool.sample import IMAGE_PLACEHOLDER

IMAGE_KEYS = (
    "image",
    "images",
    "image_path",
    "image_paths",
    "image_file",
    "image_files",
    "image_url",
    "image_urls",
    "img",
    "imgs",
    "img_path",
    "img_paths",
)
"""Keys that name a record's pictures; all but the first are read if `image` is absent."""
PLAIN_KEYS = frozenset(
    ("id", "image", "conversations", "source", "data_source", "image_source", "idx", "own_idx")
)
"""What the parser reads of a plain record. In an input that was unpacked, `idx` is the record's place there,
and `own_idx` the `idx` that it had."""
UNREADABLE = "_unreadable"
"""Key of a line of an unpacked input whose record could not be read: [reason code, detail]."""

_VIDEO_KEYS = ("video", "videos", "audio", "audios")
_SYSTEM_KEYS = ("system", "system_prompt")
_PAIRS = (("query", "response"), ("instruction", "output"))
_FORM_KEYS = {"messages", "history", *_SYSTEM_KEYS, *_PAIRS[0], *_PAIRS[1], "input"}
OTHER_FORM = frozenset((*IMAGE_KEYS[1:], *_VIDEO_KEYS, *_FORM_KEYS, UNREADABLE))
"""Keys with which a record may be of another form than LLaVA's."""
_json = msgspec.json.Decoder().decode
_ROLES = {"user": "human", "assistant": "gpt"}
_MEDIA_NAME = re.compile(
    r"\S[^\n]*\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|heif|avif|svg|jp2|ico|mp4|avi|mov|mkv|webm|mpe?g|mp3|wav"
    r"|flac|ogg)(?:[?#]\S*)?\s*",
    re.I,
)
_MEDIA_DATA = re.compile(r"data:(?:image|video|audio)/|(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/]{40}")
_MAX_NAME, _MAX_WORDS, _MAX_DEPTH, _MAX_ITEMS = 1024, 8, 4, 64
"""A path is shorter than prose; values are searched for media so deep and so far."""


def is_plain(value: dict[str, Any]) -> bool:
    """Whether the record is LLaVA's own form with no other key than `PLAIN_KEYS`."""
    return value.keys() <= PLAIN_KEYS and _is_llava(value)


def canonical(value: dict[str, Any], image_key: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The record in LLaVA's form (`image`, `conversations`, and `id` if any), and the keys that were ignored.

    `image_key`: the key that names the pictures; None: `image`, else the one alias that the record has.
    Raises BadRecord; among others `unknown_media_key` if no picture is read although some value names one.
    """
    if UNREADABLE in value:
        raise BadRecord(*_unreadable(value[UNREADABLE]))
    if image_key is None and value.keys().isdisjoint(OTHER_FORM) and _is_llava(value) and value.get("image"):
        return value, tuple(key for key in value if key not in PLAIN_KEYS and value[key] is not None)
    present = {key for key, held in value.items() if held is not None and held != []}
    if video := next((key for key in _VIDEO_KEYS if key in present and value[key] != ""), None):
        raise BadRecord("bad_image_field", f"{video}: video and audio samples are not supported")
    turns, parts, read = _conversation(value, present)
    images, image_keys = _pictures(value, present, parts, image_key)
    read |= {"id", *image_keys, *_VIDEO_KEYS} | PLAIN_KEYS - {"image"}
    ignored = tuple(key for key in value if key in present - read)
    if not images:
        _refuse_media(value, ignored)
    own = {"id": value["id"]} if "id" in value else {}
    return own | {"image": images, "conversations": turns}, ignored


def picture_paths(field: Any, key: str) -> list[str]:
    """The paths that an image field holds: a path, {path: ...}, {url: ...}, or a list of them; "" is none."""
    if field is None or field == "":
        return []
    entries = field if isinstance(field, list) else [field]
    return [_path(entry, key) for entry in entries]


def refuse_elsewhere(path: str, key: str) -> None:
    """Raises BadRecord if an image path is none: a URL, or image data as text."""
    if path.startswith("data:") or _MEDIA_DATA.match(path):
        raise BadRecord("bad_image_field", f"{key} is a data URL or base64 ({len(path):,} characters); write "
                        "the image to a file and give its path")  # fmt: skip
    if "://" in path:
        raise BadRecord("bad_image_field", f"{key} is a URL, not a path; download it first: {path}")


def turn_media(turns: list[Any]) -> str | None:
    """The first key beside speaker and text in a turn whose value looks like media."""
    read = {"from", "value", "role", "content"}
    extras = ((key, held) for turn in turns if isinstance(turn, dict) for key, held in turn.items())
    return next((key for key, held in extras if key not in read and looks_like_media(held)), None)


def looks_like_media(held: Any, depth: int = 0) -> bool:
    """Whether a value names or holds a picture, video or sound: a file name, a data URL, {bytes, path}."""
    if isinstance(held, str):
        named = len(held) <= _MAX_NAME and held.count(" ") < _MAX_WORDS and _MEDIA_NAME.fullmatch(held)
        return bool(named or _MEDIA_DATA.match(held))
    if depth >= _MAX_DEPTH:
        return False
    if isinstance(held, dict):
        if isinstance(held.get("bytes"), str | bytes) and held["bytes"]:
            return True
        return any(looks_like_media(inner, depth + 1) for inner in list(held.values())[:_MAX_ITEMS])
    return isinstance(held, list) and any(looks_like_media(inner, depth + 1) for inner in held[:_MAX_ITEMS])


def _is_llava(value: dict[str, Any]) -> bool:
    talk = value.get("conversations")
    return type(talk) is list and len(talk) > 0 and type(talk[0]) is dict and "from" in talk[0]


def _unreadable(note: Any) -> tuple[str, str]:
    reason, detail = note if isinstance(note, list) and len(note) == 2 else ("broken_json", note)
    return str(reason), str(detail)


def _conversation(value: dict[str, Any], present: set[str]) -> tuple[list[Any], list[str], set[str]]:
    """(turns as {from, value}, the paths of pictures among their parts, the keys that were read)."""
    forms: list[str] = [key for key in ("conversations", "messages") if key in present]
    forms += [question for question, answer in _PAIRS if {question, answer} <= present]
    if len(forms) > 1:
        raise BadRecord("bad_conversations", f"two conversations: {' and '.join(forms)}")
    if not forms:
        raise BadRecord("bad_conversations", f"none of conversations, messages, query and response, "
                        f"instruction and output; the keys are {', '.join(map(str, value))}")  # fmt: skip
    (form,) = forms
    paths: list[str] = []
    if form in ("conversations", "messages"):
        turns, read = _turns(value[form], form, paths), {form}
    else:
        turns, read = _pairs(value, form)
    system, keys = _system(value, present)
    if system is not None and turns and isinstance(turns[0], dict) and turns[0].get("from") == "system":
        if turns[0].get("value") != system:
            raise BadRecord("odd_roles", "a system key and a system turn that differ")
    elif system is not None:
        turns = [{"from": "system", "value": system}, *turns]
    return turns, paths, read | keys


def _turns(listed: Any, key: str, paths: list[str]) -> list[Any]:
    listed = _as_list(listed, key)
    if not isinstance(listed, list):
        raise BadRecord("bad_conversations", f"{key} is {type(listed).__name__}")
    turns = []
    for number, turn in enumerate(listed):
        if isinstance(turn, dict) and turn.get("role") is not None and turn.get("from") is None:
            role = turn["role"]
            text = _content(turn.get("content"), f"{key}, turn {number}", paths)
            turns.append({"from": _ROLES.get(role, role) if isinstance(role, str) else role, "value": text})
        else:
            turns.append(turn)
    return turns


def _as_list(held: Any, key: str) -> Any:
    """A conversation as tables hold it: as JSON in a text, or as a list for each key of its turns."""
    if isinstance(held, str) and held.lstrip()[:1] == "[":
        try:
            return _json(held)
        except (ValueError, RecursionError) as error:
            raise BadRecord("bad_conversations", f"{key} is a text, and no valid JSON ({error})") from None
    if isinstance(held, dict) and held.keys() & {"from", "role"}:
        columns = [column for column in held.values() if isinstance(column, list)]
        if len(columns) == len(held) and len({len(column) for column in columns}) == 1:
            return [dict(zip(held, turn, strict=True)) for turn in zip(*columns, strict=True)]
    return held


def _content(content: Any, where: str, paths: list[str]) -> Any:
    """The text of a message: as it is, or its parts one after the other, a placeholder for each picture."""
    if not isinstance(content, list):
        return content
    text = []
    for part in content:
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
        if isinstance(part, str):
            text.append(part)
        elif kind == "text" and isinstance(part.get("text"), str):
            text.append(part["text"])
        elif kind in ("image", "image_url"):
            text.append(IMAGE_PLACEHOLDER)
            held = next((part[key] for key in ("image", "image_url", "path", "url") if part.get(key)), None)
            if held is not None:
                paths += picture_paths(held, where)
        else:
            raise BadRecord(
                "bad_conversations", f"{where} has a part of type {kind!r}; text and image are read"
            )
    return "".join(text)


def _pairs(value: dict[str, Any], form: str) -> tuple[list[Any], set[str]]:
    """Turns of query and response, or of instruction (with its input on a new line) and output."""
    answer = dict(_PAIRS)[form]
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(p, list) and len(p) == 2 for p in history):
        raise BadRecord("bad_conversations", "history is not a list of [question, answer]")
    question, more, read = value[form], None, {form, answer, "history"}
    if form == "instruction":
        more, read = value.get("input"), read | {"input"}
    if more:
        question = f"{question}\n{more}" if isinstance(question, str) and isinstance(more, str) else None
    turns = []
    for asked, answered in [*history, [question, value[answer]]]:
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
    return turns, read


def _system(value: dict[str, Any], present: set[str]) -> tuple[str | None, set[str]]:
    named = [key for key in _SYSTEM_KEYS if key in present]
    texts = []
    for key in named:
        if not isinstance(value[key], str):
            raise BadRecord("bad_conversations", f"{key} is {type(value[key]).__name__}, not text")
        texts += [value[key]] if value[key].strip() and value[key] not in texts else []
    if len(texts) > 1:
        raise BadRecord("odd_roles", "system and system_prompt differ")
    return (texts[0] if texts else None), set(named)


def _pictures(
    value: dict[str, Any], present: set[str], parts: list[str], image_key: str | None
) -> tuple[Any, tuple[str, ...]]:
    """(the image paths, the keys that they were read from).

    With `image` (or `image_key`) filled, an alias beside it is no more than an ignored key: often the
    picture's address, or a second size. Without, two aliases that differ leave open which one is meant.
    """
    first = image_key or "image"
    fields = {key: picture_paths(value[key], key) for key in (first,) if key in present}
    if not fields.get(first) and image_key is None:
        fields |= {key: picture_paths(value[key], key) for key in IMAGE_KEYS[1:] if key in present}
    read = tuple(fields)
    fields = {key: paths for key, paths in fields.items() if paths}
    distinct = [paths for at, paths in enumerate(fields.values()) if paths not in list(fields.values())[:at]]
    if len(distinct) > 1:
        raise BadRecord("unknown_media_key", f"{' and '.join(fields)} name different pictures; choose one "
                        "with --image-key")  # fmt: skip
    if parts and distinct and distinct[0] != parts:
        raise BadRecord(
            "unknown_media_key", f"the messages' parts and {' and '.join(fields)} name different pictures"
        )
    return (parts or (distinct[0] if distinct else [])), read


def _path(entry: Any, key: str) -> str:
    if isinstance(entry, dict):
        if entry.get("bytes"):
            raise BadRecord("bad_image_field", f"{key} holds the image itself (bytes); write it to a file")
        entry = next((entry[name] for name in ("path", "url", "image_url") if entry.get(name)), entry)
    if not isinstance(entry, str) or not entry:
        raise BadRecord("bad_image_field", f"{key} is {short(repr(entry))}, not a path")
    refuse_elsewhere(entry, key)
    return entry


def _refuse_media(value: dict[str, Any], ignored: tuple[str, ...]) -> None:
    for key in ignored:
        if looks_like_media(value[key]):
            raise BadRecord("unknown_media_key", f"{key} looks like media, but is not read: name it with "
                            f"--image-key: {_excerpt(value[key])}")  # fmt: skip


def _excerpt(held: Any) -> str:
    return next(_strings(held), "")[:80]


def _strings(held: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(held, str):
        yield held
    elif isinstance(held, dict | list) and depth <= _MAX_DEPTH:
        for inner in held.values() if isinstance(held, dict) else held:
            yield from _strings(inner, depth + 1)
