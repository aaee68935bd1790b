"""What the images of a pool are, in numbers."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_COUNTED = ("format", "mode", "alpha", "orientation", "frames", "bytes_hash")
SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Limits between the classes of the longer side, in pixels."""


def image_counts(images: pa.Table) -> dict[str, Any]:
    """Counts over a table of `image_audit.IMAGE_SCHEMA`, for pool.json.

    images: rows. reasons: of unusable ones; all else is over usable ones. formats, modes: by name. alpha:
    with pixels that may be transparent. turned: that EXIF turns or mirrors. animated: with several frames
    (of formats whose frames the header does not count, at level full only). repeated_bytes: files beyond the
    first of their content; None unless all were hashed.
    """
    sound = images.select(_COUNTED).filter(pc.is_null(images["reason"]))
    return {
        "images": len(images),
        "reasons": by_value(images["reason"].drop_null()),
        "formats": by_value(sound["format"]),
        "modes": by_value(sound["mode"]),
        "alpha": _number(sound["alpha"]),
        "turned": _number(pc.not_equal(sound["orientation"], 1)),
        "animated": _number(pc.greater(sound["frames"], 1)),
        "repeated_bytes": None if sound["bytes_hash"].null_count else repeats(prefixes(sound["bytes_hash"])),
    }


def by_value(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column, the most frequent first."""
    counted = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
    return dict(sorted(counted.items(), key=lambda entry: (-entry[1], str(entry[0]))))


def prefixes(column: pa.ChunkedArray) -> np.ndarray:
    """uint64: the first half of each 16-byte hash that is not null.

    Of 2.6 million different hashes two have the same one with probability 2e-7.
    """
    hashes = column.combine_chunks().drop_null()
    return np.frombuffer(hashes.buffers()[1], "<u8", 2 * len(hashes), 16 * hashes.offset)[::2]


def repeats(values: np.ndarray) -> int:
    """Values beyond the first of each."""
    return len(values) - len(np.unique(values))


def by_side(images: pa.Table) -> list[tuple[str, int]]:
    """(class of the longer side, images), from small to large, of the sizes that are known."""
    longer = pc.max_element_wise(images["width"], images["height"]).drop_null().to_numpy()
    classes = np.bincount(np.searchsorted(SIDES, longer, side="right"), minlength=len(SIDES) + 1)
    names = [f"below {SIDES[0]}", *(f"{a} to {b - 1}" for a, b in pairwise(SIDES))]
    return [(name, int(n)) for name, n in zip([*names, f"{SIDES[-1]} and more"], classes, strict=True)]


def _number(flags: pa.ChunkedArray) -> int:
    return pc.sum(flags, min_count=0).as_py()
