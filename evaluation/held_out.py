"""Validation items that a targeted selector may see: they must not be among the questions that are reported.

    check_disjoint({"mmstar": mirror.rows(data)}, validation)

Items are compared by content, since splits of one benchmark, and benchmarks that share images, repeat items.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.arrow_cache import BATCH_ROWS
from evaluation.repository import MirrorError

if TYPE_CHECKING:
    from datasets import Dataset


def check_disjoint(
    reported: Mapping[str, "Dataset"], validation: "Dataset", question: str | Sequence[str] = "question"
) -> None:
    """Raises MirrorError if a validation item has the question and images of a reported one.

    reported: rows of each benchmark. question: the column of the question's text, or several.
    """
    columns = [question] if isinstance(question, str) else list(question)
    keys = contents(validation, columns)
    known = {key: at for at, key in reversed(list(enumerate(keys)))}
    for name, rows in reported.items():
        shared = [(known[key], at) for at, key in enumerate(contents(rows, columns)) if key in known]
        if shared:
            mine, theirs = shared[0]
            raise MirrorError(
                f"{len(shared)} of {len(rows)} questions of {name} are also validation items, the first is "
                f"row {theirs} of {name} and row {mine} of the items: take items of another split"
            )


def contents(rows: "Dataset", columns: Sequence[str]) -> list[str]:
    """A hash of the question's text and of all images' bytes for each row. Images are not decoded."""
    import pyarrow as pa
    from datasets import Image, List

    missing = [name for name in columns if name not in rows.features]
    if missing:
        raise MirrorError(f"validation items cannot be compared: no column {', '.join(missing)}")
    images = [
        name
        for name, feature in rows.features.items()
        if isinstance(feature.feature if isinstance(feature, List) else feature, Image)
    ]
    table = rows.select_columns([*columns, *images]).with_format("arrow")
    return [
        _content(row, columns, images)
        for batch in table.iter(batch_size=BATCH_ROWS)
        for row in pa.table(batch).to_pylist()
    ]


def _content(row: Mapping[str, Any], columns: Sequence[str], images: Sequence[str]) -> str:
    """The case of the question does not count."""
    state = hashlib.sha256(" ".join(str(row[name]) for name in columns).casefold().encode())
    for name in images:
        cell = row[name]
        for image in cell if isinstance(cell, list) else [cell]:
            state.update(hashlib.sha256(image["bytes"]).digest() if image else b"none")
    return state.hexdigest()
