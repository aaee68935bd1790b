"""The samples and quarantined records of a page, as plain values for its JSON."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation.explore.figures import rounded
from curation.pool.errors import PoolError
from curation.pool.read import Pool
from curation.pool.reasons import BadRecord
from curation.pool.record import Record, RecordOptions, parse_record
from curation.pool.sample import Sample
from curation.pool.stream import decode
from curation.printable import visible

IMAGES = 4
"""Pictures shown of a sample."""
CELL = 200
"""Characters shown of a text in a column."""
_EXACT = 1 << 53
"""JavaScript's whole numbers are exact below."""

Item = dict[str, Any]
Talk = list[tuple[str, str]]


@dataclass
class Names:
    """The images that the page shows, each once: `number` of a name, in the order of the first use."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The place of the image among the page's pictures."""
        return self.numbers.setdefault(name, len(self.numbers))


def conversation(sample: Sample | Record, limit: int) -> tuple[Talk, int]:
    """(speaker, text) in order, of at most `limit` characters together, and how many were left out."""
    talk = [("system", sample.system)] if sample.system else []
    for turn in sample.turns:
        talk += [("question", turn.question), ("answer", turn.answer)]
    kept, cut = [], 0
    for speaker, text in talk:
        if limit > 0:
            kept.append((speaker, lines(text[:limit])))
        cut += max(len(text) - limit, 0)
        limit = max(limit - len(text), 0)
    return kept, cut


def lines(text: str) -> str:
    """Foreign text with its line ends, other control characters as escapes."""
    return "\n".join(visible(line.replace("\t", "    ")) for line in text.splitlines())


def cell(value: Any) -> Any:
    """The value of a column as JSON can hold it: texts cut and printable, numbers to five digits."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT else str(value)
    if isinstance(value, float):
        return rounded(value) if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return ", ".join(str(cell(part)) for part in value[:CELL])[:CELL]
    text = value if isinstance(value, str) else str(value)
    return visible(text[:CELL]) + ("…" if len(text) > CELL else "")


def of_pool(pool: Pool, rows: Sequence[int], names: Names, limit: int) -> Iterator[Item]:
    """row, id, source, talk, cut, images, more_images of each row; `limit`: characters of one conversation.

    Raises PoolError for a source file that changed since the build.
    """
    paths = pool.image_table["path"]
    image_ids = pool.table["image_ids"]
    for row in rows:
        sample = pool[row]
        talk, cut = conversation(sample, limit)
        own = image_ids[row].as_py() or []
        shown = [names.number(paths[image].as_py()) for image in own[:IMAGES]]
        yield {
            "row": row,
            "id": cell(sample.id),
            "source": cell(sample.source),
            "talk": talk,
            "cut": cut,
            "images": shown,
            "more_images": len(own) - len(shown),
        }


def of_quarantine(pool: Pool, records: Sequence[Mapping[str, Any]], names: Names, limit: int) -> list[Item]:
    """The same of rows of quarantine.parquet, with why, detail and place; the raw text if it has no form."""
    return [_quarantined(pool, record, names, limit) for record in records]


def _quarantined(pool: Pool, record: Mapping[str, Any], names: Names, limit: int) -> Item:
    raw = _raw(pool, record)
    file = pool.files[record["file"]].name if record["file"] is not None else "?"
    item = {
        "id": cell(record["id"]) if record["id"] is not None else f"record {record['index']}",
        "source": cell(record["source"]),
        "state": "quarantined",
        "why": cell(record["reason"]),
        "detail": (cell(record["detail"]) or "").replace(f"{pool.images}/", ""),
        "place": f"record {record['index']:,} of {cell(file)}, from byte {record['byte_offset'] or 0:,}",
        "images": [],
        "more_images": 0,
    }
    parsed = _parsed(raw, pool.options)
    if parsed is None:
        text = raw.decode("utf-8", "replace")
        return item | {"talk": [("record", lines(text[:limit]))], "cut": max(len(text) - limit, 0)}
    talk, cut = conversation(parsed, limit)
    shown = [names.number(name) for name in parsed.images[:IMAGES]]
    more = len(parsed.images) - len(shown)
    return item | {
        "talk": talk,
        "cut": cut,
        "images": shown,
        "more_images": more,
    }


def _raw(pool: Pool, record: Mapping[str, Any]) -> bytes:
    """The record's bytes; empty where the index has no place of it."""
    place = [record[key] for key in ("file", "byte_offset", "byte_length")]
    if None in place:
        return b""
    path = pool.files[place[0]]
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), place[2], place[1])
    except OSError as error:
        raise PoolError(f"{path} cannot be read ({error.strerror}); build the pool again") from error


def _parsed(raw: bytes, options: RecordOptions) -> Record | None:
    """The record, if only its images or another record are the fault."""
    value, fault = decode(raw)
    if fault is not None:
        return None
    try:
        return parse_record(value, options)
    except BadRecord:
        return None
