"""Samples as Arrow tables: id, image(s), conversations and data source, as LLaVA-OneVision-Data has them.

| column | type |
| :-- | :-- |
| id | string, of the pool |
| image | {bytes, path}, or a path; null for text alone. If a chosen sample has several: `images`, a list |
| conversations | list of {from, value} |
| data_source | string |
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.export.job import Job, conversations
from curation.pool.sample import Sample

_BATCH_ROWS, _BATCH_BYTES = 1000, 64 << 20
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEXT = {"dtype": "string", "_type": "Value"}


def schema(job: Job, *, embed: bool) -> pa.Schema:
    """The columns, with the features by which the `datasets` library shows images as images.

    embed: images as {bytes, path}; else their paths as texts.
    """
    image, feature = (_IMAGE, {"_type": "Image"}) if embed else (pa.string(), _TEXT)
    several = has_several(job)
    turns = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    fields = [
        ("id", pa.string()),
        ("images", pa.list_(image)) if several else ("image", image),
        ("conversations", turns),
        ("data_source", pa.string()),
    ]
    features: dict[str, Any] = {"id": _TEXT, fields[1][0]: [feature] if several else feature}
    features |= {"conversations": [{"from": _TEXT, "value": _TEXT}], "data_source": _TEXT}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def has_several(job: Job) -> bool:
    """Whether a chosen sample has more than one image, so that the column must hold lists."""
    most = pc.max(job.pool.table["n_images"].take(job.rows)).as_py()
    return most is not None and most > 1


def tables(job: Job, columns: pa.Schema, *, embed: bool) -> Iterator[pa.Table]:
    """The samples in rank order, in tables of at most `_BATCH_ROWS` rows and about `_BATCH_BYTES`."""
    batch: list[dict[str, Any]] = []
    size = 0
    for sample in job.samples():
        images, more = _images(job, sample, embed)
        held = {"images": images} if "images" in columns.names else {"image": images[0] if images else None}
        batch.append(
            {"id": sample.id, **held, "conversations": conversations(sample), "data_source": sample.source}
        )
        size += more
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield pa.Table.from_pylist(batch, columns)
            batch, size = [], 0
    if batch:
        yield pa.Table.from_pylist(batch, columns)


def _images(job: Job, sample: Sample, embed: bool) -> tuple[list[Any], int]:
    """(the values of the sample's images, their bytes)."""
    if not embed:
        return list(job.pictures.paths(sample)), 0
    read = job.pictures.read(sample)
    return [{"bytes": data, "path": name} for name, data in read], sum(len(data) for _, data in read)
