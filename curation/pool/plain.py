"""The quick way through records of LLaVA's plain form, which are nearly all of a pool.

It gives what `parse_record` gives, or nothing: whatever is unusual in a record is left to that.
"""

import re
from collections.abc import Callable
from itertools import cycle, islice
from typing import Literal, NamedTuple

import msgspec

from curation.pool import sources
from curation.pool.dialects import OTHER_FORM, PLAIN_KEYS, looks_like_media
from curation.pool.readable import control_tokens, sees
from curation.pool.record import RecordOptions, content_digest
from curation.pool.sample import IMAGE_PLACEHOLDER

_MOST_TURNS = 512
_SPEAKERS = list(islice(cycle(("human", "gpt")), _MOST_TURNS))
_KEY = re.compile(rb'"[ \t\r\n]*:')
_LONG_PATH = 500


class _Turn(msgspec.Struct, gc=False):
    value: str
    speaker: Literal["human", "gpt"] = msgspec.field(name="from")


class _Record(msgspec.Struct, gc=False):
    conversations: list[_Turn]
    id: str | int | msgspec.UnsetType | None = msgspec.UNSET
    image: str | msgspec.UnsetType | None = msgspec.UNSET
    source: str | msgspec.UnsetType | None = msgspec.UNSET
    idx: int | str | msgspec.UnsetType | None = msgspec.UNSET
    own_idx: int | str | msgspec.UnsetType | None = msgspec.UNSET


_READ = frozenset(_Record.__struct_fields__)
_LOOKED_AT = OTHER_FORM | PLAIN_KEYS - _READ
_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Row(NamedTuple):
    """What the pool needs of a record.

    `place`: `idx` as a number, the record's place in an input that was unpacked. `folder`, `unknown`: as of
    `Record`. `content`: 16 bytes. `text`: for counting tokens. `reason`, `detail`: why it cannot be used
    (`source` may be None). `idx`, `own_idx`: these keys as texts.
    """

    place: int | None
    id: str | None
    source: str | None
    folder: str | None
    images: tuple[str, ...]
    turns: int
    content: bytes
    text: str
    reason: str | None = None
    detail: str | None = None
    unknown: tuple[str, ...] = ()
    idx: str | None = None
    own_idx: str | None = None


def reader(options: RecordOptions) -> Callable[[bytes], Row | None]:
    """A function from the bytes of a record to what is in it; None: ask `parse_record`."""
    if options.image_key is not None or options.source_key is not None:
        return lambda raw: None
    decode, unset = msgspec.json.Decoder(_Record).decode, msgspec.UNSET
    tokens = control_tokens(options.control_tokens)

    def read(raw: bytes) -> Row | None:
        try:
            record = decode(raw)
        except (ValueError, RecursionError):
            return None
        turns = record.conversations
        own, image, idx, named = record.id, record.image, record.idx, record.source
        keys = 1 + (own is not unset) + (image is not unset) + (named is not unset) + (idx is not unset)
        keys += (record.own_idx is not unset) + 2 * len(turns)
        unknown: tuple[str, ...] = ()
        # With no more colons, or keys, than the parser found keys, no key is there twice or was not read.
        if raw.count(b":") != keys and len(_KEY.findall(raw)) != keys:
            found = _unread(raw, keys, bool(image))
            if found is None:
                return None
            unknown = found
        texts = [turn.value for turn in turns]
        count = len(texts)
        if not texts or count % 2 or [turn.speaker for turn in turns] != _SPEAKERS[:count]:
            return None
        # A text between these begins with a printed ASCII character.
        if not ("!" <= min(texts) and max(texts) < "\x7f") and not all(map(sees, texts)):
            return None
        digest = content_digest((image,) if image else (), list(zip(_SPEAKERS, texts, strict=False)))
        images: tuple[str, ...] = ()
        if image:
            before, placeholder, after = (first := texts[0]).partition(IMAGE_PLACEHOLDER)
            if not placeholder or ":" in image or len(image) > _LONG_PATH:
                return None
            images, texts[0] = (image,), before + after
        elif image == "":
            return None
        text = "\n".join(texts)
        if IMAGE_PLACEHOLDER in text:
            return None
        if tokens.may_be_in(text) and (tokens.count(text) or (image and tokens.count(first))):
            return None
        source, folder = _source(named or None, images, options)
        place = idx if isinstance(idx, int) else None
        row = (place, _named(own), source, folder, images, count // 2, digest, text, None, None, unknown)
        return Row(*row, _named(idx), _named(record.own_idx))

    return read


def _named(own: int | str | msgspec.UnsetType | None) -> str | None:
    """An id as text; None without one."""
    return None if own is msgspec.UNSET or own is None else str(own).strip() or None


def _unread(raw: bytes, keys: int, with_image: bool) -> tuple[str, ...] | None:
    """The keys with a value beside those that are read; None if what they hold has to be looked at.

    `keys`: how many are read, in the record and its turns.
    """
    values = _values(raw)
    others = values.keys() - _READ
    if len(_KEY.findall(raw)) != keys + len(others) or not others.isdisjoint(_LOOKED_AT):
        return None
    found = []
    for key in values:
        value = bytes(values[key])
        if key not in others or value == b"null":
            continue
        if value[:1] in (b"{", b"["):
            return None
        if not with_image and value[:1] == b'"' and looks_like_media(_text(value)):
            return None
        found.append(key)
    return tuple(found)


def _source(named: str | None, images: tuple[str, ...], options: RecordOptions) -> tuple[str, str | None]:
    if named:
        return named, None
    if options.default_source is not None:
        return options.default_source, None
    return sources.of_path(images[0], options.source_depth) if images else (sources.TEXT_ONLY, None)
