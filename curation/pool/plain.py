"""The quick way through records of LLaVA's plain form, which are nearly all of a pool.

It gives what `parse_record` gives, or nothing: whatever is unusual in a record is left to that.
"""

import re
from collections.abc import Callable
from itertools import cycle, islice
from typing import NamedTuple

import msgspec

from curation.pool import sources
from curation.pool.readable import control_tokens, sees
from curation.pool.record import RecordOptions, content_hash
from curation.pool.sample import IMAGE_PLACEHOLDER

_MOST_TURNS = 512
_SPEAKERS = list(islice(cycle(("human", "gpt")), _MOST_TURNS))
_SPACED_COLON = re.compile(rb'"\s+:')
_LONG_PATH = 500


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    value: str
    speaker: str = msgspec.field(name="from")


class _Record(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    conversations: list[_Turn]
    id: str | int | msgspec.UnsetType | None = msgspec.UNSET
    image: str | msgspec.UnsetType | None = msgspec.UNSET
    source: str | msgspec.UnsetType | None = msgspec.UNSET
    idx: int | msgspec.UnsetType | None = msgspec.UNSET


class Plain(NamedTuple):
    """What the pool needs of a record without any peculiarity.

    `row`: id, source, folder, number of images, number of turns, content hash. `text`: as of `Record.text`.
    """

    row: tuple[str | None, str, str | None, int, int, str]
    images: tuple[str, ...]
    text: str
    idx: int | None


def reader(options: RecordOptions) -> Callable[[bytes], Plain | None]:
    """A function from the bytes of a record to what is in it; None: ask `parse_record`."""
    if options.image_key is not None or options.source_key is not None:
        return lambda raw: None
    decode, unset, spaced_colon = msgspec.json.Decoder(_Record).decode, msgspec.UNSET, _SPACED_COLON.search
    tokens = control_tokens(options.control_tokens)

    def read(raw: bytes) -> Plain | None:
        try:
            record = decode(raw)
        except (ValueError, RecursionError):
            return None
        turns = record.conversations
        own, image, idx = record.id, record.image, record.idx
        keys = (
            1 + (own is not unset) + (image is not unset) + (record.source is not unset) + (idx is not unset)
        )
        # As many keys as the parser found, and no other way to write one: none is there twice.
        if raw.count(b'":') != keys + 2 * len(turns) or spaced_colon(raw):
            return None
        speakers = [turn.speaker for turn in turns]
        texts = [turn.value for turn in turns]
        if not texts or len(texts) % 2 or speakers != _SPEAKERS[: len(texts)] or not all(map(sees, texts)):
            return None
        joined = "\n".join(texts)
        images: tuple[str, ...] = ()
        text = joined
        if image:
            if ":" in image or len(image) > _LONG_PATH or texts[0].count(IMAGE_PLACEHOLDER) != 1:
                return None
            images, text = (image,), joined.replace(IMAGE_PLACEHOLDER, "")
            if len(text) != len(joined) - len(IMAGE_PLACEHOLDER):
                return None
        elif image == "":
            return None
        if IMAGE_PLACEHOLDER in text or (tokens.may_be_in(text) and tokens.count(joined)):
            return None
        source, folder = _source(record, images, options)
        name = str(own).strip() if own is not unset and own is not None else None
        digest = content_hash(images, list(zip(speakers, texts, strict=True)))
        row = (name or None, source, folder, len(images), len(texts) // 2, digest)
        return Plain(row, images, text, idx if isinstance(idx, int) else None)

    return read


def _source(record: _Record, images: tuple[str, ...], options: RecordOptions) -> tuple[str, str | None]:
    if record.source:
        return record.source, None
    if options.default_source is not None:
        return options.default_source, None
    return sources.of_path(images[0], options.source_depth) if images else (sources.TEXT_ONLY, None)
