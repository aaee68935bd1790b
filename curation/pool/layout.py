"""The files of a pool folder and their columns."""

import pyarrow as pa

POOL_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("n_images", pa.int32()),
        ("n_turns", pa.int32()),
        ("text_tokens", pa.int32()),
        ("image_tokens", pa.int32()),
        ("image_bytes", pa.int64()),
        ("file", pa.int32()),
        ("index", pa.int64()),
        ("original_id", pa.string()),
        ("idx", pa.string()),
        ("byte_offset", pa.int64()),
        ("byte_length", pa.int32()),
        ("record_hash", pa.uint64()),
        ("content_hash", pa.string()),
        ("image_ids", pa.list_(pa.int32())),
    ]
)
"""`file`: which of pool.json's files; `index`: the record's place in the original input, from 0; `idx`: the
record's own key of that name, by which the released mmSSR code names samples (null without); `image_ids`:
rows of images.parquet in placeholder order; `record_hash`: of the record's bytes (`stream.record_hash`)."""
QUARANTINE_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("byte_offset", pa.int64()),
        ("byte_length", pa.int64()),
        ("file", pa.int32()),
    ]
)
"""`source`: null where the record does not tell it."""
SCAN_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("idx", pa.string()),
        ("source", pa.string()),
        ("folder", pa.string()),
        ("n_images", pa.int32()),
        ("n_turns", pa.int32()),
        ("text_tokens", pa.int32()),
        ("byte_offset", pa.int64()),
        ("byte_length", pa.int64()),
        ("record_hash", pa.uint64()),
        ("content", pa.binary(16)),
        ("images", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""What one pass over a range of a file finds: a row for each record, with `reason` null for a usable one."""
POOL_FILES = ("pool.json", "pool.parquet", "quarantine.parquet", "images.parquet")
PARTS = ".parts"
"""Folder of an unfinished build's results, from which it goes on; removed when the pool is complete."""
