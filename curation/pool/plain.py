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

    def keys(self) -> int:
        """How many keys the record and its turns have in the file."""
        given = (self.id, self.image, self.source, self.idx)
        return 1 + sum(key is not msgspec.UNSET for key in given) + 2 * len(self.conversations)


class Plain(NamedTuple):
    """What the pool needs of a record without any peculiarity; `text` is that of `Record.text`."""

    id: str | None
    source: str
    folder: str | None
    images: tuple[str, ...]
    turns: int
    content_hash: str
    text: str
    idx: int | None

    def row(self) -> tuple:
        """Id, source, folder, number of images, number of turns, content hash."""
        return self.id, self.source, self.folder, len(self.images), self.turns, self.content_hash


def reader(options: RecordOptions) -> Callable[[bytes], Plain | None]:
    """A function from the bytes of a record to what is in it; None: ask `parse_record`."""
    if options.image_key is not None or options.source_key is not None:
        return lambda raw: None
    decode = msgspec.json.Decoder(_Record).decode
    tokens = control_tokens(options.control_tokens)

    def read(raw: bytes) -> Plain | None:
        try:
            record = decode(raw)
        except (ValueError, RecursionError):
            return None
        # As many keys as the parser found, and no other way to write one: none is there twice.
        if raw.count(b'":') != record.keys() or _SPACED_COLON.search(raw):
            return None
        speakers = [turn.speaker for turn in record.conversations]
        texts = [turn.value for turn in record.conversations]
        if not texts or len(texts) % 2 or speakers != _SPEAKERS[: len(texts)]:
            return None
        image = record.image
        if (image and (":" in image or len(image) > _LONG_PATH)) or image == "":
            return None
        images = (image,) if image else ()
        joined = "\n".join(texts)
        if joined.count(IMAGE_PLACEHOLDER) != len(images) or (images and IMAGE_PLACEHOLDER not in texts[0]):
            return None
        if not all(map(sees, texts)) or (tokens.may_be_in(joined) and tokens.count(joined)):
            return None
        source, folder = _source(record, images, options)
        spoken = list(zip(speakers, texts, strict=True))
        own = str(record.id).strip() if record.id is not msgspec.UNSET and record.id is not None else None
        return Plain(
            own or None,
            source,
            folder,
            images,
            len(texts) // 2,
            content_hash(images, spoken),
            joined.replace(IMAGE_PLACEHOLDER, "") if images else joined,
            record.idx if isinstance(record.idx, int) else None,
        )

    return read


def _source(record: _Record, images: tuple[str, ...], options: RecordOptions) -> tuple[str, str | None]:
    if record.source:
        return record.source, None
    if options.default_source is not None:
        return options.default_source, None
    return sources.of_path(images[0], options.source_depth) if images else (sources.TEXT_ONLY, None)
