"""Unique ids: records without an id, and all records that share one, get the hash of their content as id."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Ids:
    """Ids of n records. `missing` and `repeated` count the kept records whose own id was replaced.

    `ids`: string[n]. `duplicate`: object[n], the reason code of a record to drop, None for one to keep.
    """

    ids: np.ndarray
    duplicate: np.ndarray
    missing: int
    repeated: int

    @property
    def kept(self) -> np.ndarray:
        """bool[n]: whether the record is kept."""
        return _is_none(self.duplicate)


def unique_ids(own: pa.Array, content: pa.Array) -> Ids:
    """Make ids unique, independently of the order of the records (LLaVA-665K repeats ids).

    `own`: string[n], null where the record has no id. `content`: string[n], the content hashes. Of identical
    records (same own id or none, same content) the first is kept and the others are marked
    `duplicate_record`.
    """
    own_code, content_code = _codes(own), _codes(content)
    drop = np.full(len(own), None, dtype=object)
    pair = (own_code + 1) * (content_code.max(initial=0) + 1) + content_code
    drop[~_is_first(pair)] = "duplicate_record"
    kept = _is_none(drop)
    missing = own_code < 0
    repeated = ~missing & (
        np.bincount(own_code[kept & ~missing], minlength=own_code.max(initial=0) + 1)[own_code] > 1
    )
    hashed = np.asarray(content.to_pylist(), dtype=object)
    ids = np.where(missing | repeated, hashed, np.asarray(own.to_pylist(), dtype=object))
    _mark_clashes(ids, hashed, drop)
    return Ids(ids, drop, int((missing & kept).sum()), int((repeated & kept).sum()))


def _mark_clashes(ids: np.ndarray, hashed: np.ndarray, drop: np.ndarray) -> None:
    # Replacing ids can create new clashes: a record without an id and one with a repeated id may have the
    # same content, and a record's own id may be the content hash of another one.
    kept = np.flatnonzero(_is_none(drop))
    code = _codes(pa.array(ids[kept], pa.string()))
    later = kept[~_is_first(code)]
    if len(later):
        first_of = dict(zip(ids[kept][::-1], kept[::-1], strict=True))
        for at in later:
            same = hashed[at] == hashed[first_of[ids[at]]]
            drop[at] = "duplicate_record" if same else "duplicate_id"


def _is_none(values: np.ndarray) -> np.ndarray:
    return values == None  # noqa: E711 - elementwise; `is` would compare the array itself


def _codes(values: pa.Array) -> np.ndarray:
    return values.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _is_first(codes: np.ndarray) -> np.ndarray:
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first
