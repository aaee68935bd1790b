"""Unique ids: records without an id, and all records that share one, get the hash of their content as id."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Ids:
    """`ids` string[n]; `duplicate` object[n]: reason code of the records to drop, else None; two counts."""

    ids: np.ndarray
    duplicate: np.ndarray
    missing: int
    repeated: int


def unique_ids(own: pa.Array, content: pa.Array) -> Ids:
    """Make ids unique, whatever the order of the records (LLaVA-665K repeats ids).

    `own` string[n] with nulls, `content` string[n]. Of identical records (same own id or none, same content) the
    first stays and the others are marked `duplicate_record`.
    """
    own_code, content_code = _codes(own), _codes(content)
    drop = np.full(len(own), None, dtype=object)
    pair = (own_code + 1) * (content_code.max(initial=0) + 1) + content_code
    drop[~_is_first(pair)] = "duplicate_record"
    kept = drop == None  # noqa: E711 - elementwise
    missing = own_code < 0
    repeated = ~missing & (
        np.bincount(own_code[kept & ~missing], minlength=own_code.max(initial=0) + 1)[own_code] > 1
    )
    hashed = np.asarray(content.to_pylist(), dtype=object)
    ids = np.where(missing | repeated, hashed, np.asarray(own.to_pylist(), dtype=object))
    _mark_clashes(ids, hashed, drop)
    return Ids(ids, drop, int((missing & kept).sum()), int((repeated & kept).sum()))


def _mark_clashes(ids: np.ndarray, hashed: np.ndarray, drop: np.ndarray) -> None:
    # A record without id and one with a repeated id may have the same content, and someone's own id may be a hash.
    kept = np.flatnonzero(drop == None)  # noqa: E711
    code = _codes(pa.array(ids[kept], pa.string()))
    later = kept[~_is_first(code)]
    if len(later):
        first_of = dict(zip(ids[kept][::-1], kept[::-1], strict=True))
        for at in later:
            same = hashed[at] == hashed[first_of[ids[at]]]
            drop[at] = "duplicate_record" if same else "duplicate_id"


def _codes(values: pa.Array) -> np.ndarray:
    return values.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _is_first(codes: np.ndarray) -> np.ndarray:
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first
