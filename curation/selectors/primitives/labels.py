"""A multi-label column, such as the styles of a sample, as flat codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.selectors.contract import ColumnError, require
from curation.selectors.primitives.keys import groups


@dataclass(frozen=True)
class Labels:
    """A multi-label column of n rows in CSR form: row i has the next `counts[i]` of `codes`, each label once.

    codes int32[m] index the sorted `names`; counts int[n]; unlabelled: how many rows have no label of their
    own.
    """

    codes: np.ndarray
    counts: np.ndarray
    names: Sequence[str | None]
    unlabelled: int = 0

    @cached_property
    def position(self) -> np.ndarray:
        """int[m]: the place of each label among those of its row, from 0."""
        return np.arange(len(self.codes)) - (self.counts.cumsum() - self.counts).repeat(self.counts)

    def crossed(self, groups: np.ndarray, width: int) -> np.ndarray:
        """uint[m]: code · width + the group of its row, for groups int[n] from 0 to width - 1."""
        kind = np.min_scalar_type(len(self.names) * width)
        return self.codes.astype(kind) * kind.type(width) + groups.astype(kind).repeat(self.counts)


def multi_label(columns: pa.Table, name: str, *, default: str | None = None, split: bool = False) -> Labels:
    """The labels of a list<string> column (also dictionary-encoded), without nulls and repeats in a row.

    `default`: empty labels are dropped too, and a row without a label gets this one. `split`: text is also
    taken, and cut at commas; labels are stripped of white space. Raises ColumnError.
    """
    require(columns, [name])
    lists = columns[name].combine_chunks()
    if split and _is_text(lists.type):
        lists = pc.split_pattern(lists, ",")
    is_list = pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)
    kind = lists.type.value_type if is_list else lists.type
    if not is_list or not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
        expected = "list<string> or text" if split else "list<string>"
        raise ColumnError(name, f"column {name!r} must be {expected}, got {columns[name].type}")
    codes, raw = groups(lists.flatten(), np.int32)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    stripped = [label.strip() for label in raw] if split else raw
    names = sorted(set(stripped) if default is None else {*stripped, default} - {""})
    place = {label: at for at, label in enumerate(names)}
    if names != raw:
        codes = np.array([*(place.get(label, -1) for label in stripped), -1], np.int32)[codes]
    labels = _distinct(_without(Labels(codes, counts, names), codes < 0))
    bare = np.flatnonzero(labels.counts == 0)
    codes, counts = labels.codes, labels.counts
    if default is not None and len(bare):
        codes, counts = np.insert(codes, counts.cumsum()[bare], place[default]), np.maximum(counts, 1)
    return Labels(codes, counts, names, len(bare))


def _distinct(labels: Labels) -> Labels:
    """The first of equal labels of a row. Compares each label with those before it: a row has few."""
    later, distance = np.flatnonzero(labels.position > 0), 1
    repeated = np.zeros(len(labels.codes), bool)
    while len(later):
        repeated[later[labels.codes[later] == labels.codes[later - distance]]] = True
        distance += 1
        later = later[labels.position[later] >= distance]
    return _without(labels, repeated)


def _without(labels: Labels, dropped: np.ndarray) -> Labels:
    """The labels but for those where `dropped` bool[m]."""
    if not dropped.any():
        return labels
    rows = np.arange(len(labels.counts)).repeat(labels.counts)
    counts = labels.counts - np.bincount(rows[dropped], minlength=len(labels.counts))
    return Labels(labels.codes[~dropped], counts, labels.names)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
