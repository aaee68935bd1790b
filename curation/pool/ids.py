"""Unique ids: records without an id, and all records that share one, get the hash of their content as id."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEPT, DUPLICATE_RECORD, DUPLICATE_ID = range(3)
_AT_ONCE = 1 << 16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""An odd number (2^64 over the golden ratio), whose powers tell the places of a text's bytes apart."""


@dataclass(frozen=True)
class Ids:
    """Ids of n records. `missing` and `repeated` count the kept records whose own id was replaced.

    `ids`: string[n]. `fate`: int8[n], KEPT, or DUPLICATE_RECORD or DUPLICATE_ID for a record to drop.
    """

    ids: pa.Array
    fate: np.ndarray
    missing: int
    repeated: int

    @property
    def kept(self) -> np.ndarray:
        """bool[n]: whether the record is kept."""
        return self.fate == KEPT


def unique_ids(own: pa.Array, content: pa.Array) -> Ids:
    """Make ids unique, independently of the order of the records (LLaVA-665K repeats ids).

    `own`: string[n], null where the record has no id. `content`: binary(16)[n], the content hashes. Of
    identical records (same own id or none, same content) the first is kept and the others are
    DUPLICATE_RECORD.
    """
    fate = np.zeros(len(own), np.int8)
    at = _doubtful(own, content)
    if not len(at):
        return Ids(own, fate, 0, 0)
    some = _unique(own.take(pa.array(at)), content.take(pa.array(at)))
    fate[at] = some.fate
    mask = np.zeros(len(own), bool)
    mask[at] = True
    return Ids(pc.replace_with_mask(own, pa.array(mask), some.ids), fate, some.missing, some.repeated)


def _doubtful(own: pa.Array, content: pa.Array) -> np.ndarray:
    """The records that may not keep their own id, or that another one takes from them.

    In nearly every pool they are few; what is exact about them costs much memory for millions of rows.
    """
    missing = own.is_null().to_numpy(zero_copy_only=False)
    keys = _keys(own)
    replaced = missing | _is_repeated(keys)
    hashes = hexadecimal(content.filter(pa.array(replaced)))
    taken = pc.is_in(own, value_set=hashes).to_numpy(zero_copy_only=False) if len(hashes) else missing
    return np.flatnonzero(replaced | taken)


def _keys(texts: pa.Array) -> np.ndarray:
    """uint64[n]: equal for equal texts, seldom for others; 0 for null."""
    keys = np.zeros(len(texts), np.uint64)
    for start in range(0, len(texts), _AT_ONCE):
        part = texts.slice(start, _AT_ONCE).fill_null("")
        ends = np.frombuffer(part.buffers()[1], np.int32)[part.offset :][: len(part) + 1]
        data = np.frombuffer(part.buffers()[2] or b"", np.uint8)[ends[0] : ends[-1]]
        places = np.arange(len(data)) - np.repeat(ends[:-1] - ends[0], np.diff(ends))
        powers = np.power(_FACTOR, np.arange(places.max(initial=0) + 1, dtype=np.uint64))
        sums = np.cumsum(np.concatenate([np.zeros(1, np.uint64), (data + np.uint64(1)) * powers[places]]))
        keys[start : start + len(part)] = sums[ends[1:] - ends[0]] - sums[ends[:-1] - ends[0]]
    return keys


def _is_repeated(keys: np.ndarray) -> np.ndarray:
    order = np.argsort(keys)
    same = keys[order[1:]] == keys[order[:-1]]
    repeated = np.zeros(len(keys), bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def _unique(own: pa.Array, content: pa.Array) -> Ids:
    own_code, content_code = _codes(own), _codes(content)
    fate = np.zeros(len(own), np.int8)
    pair = (own_code.astype(np.int64) + 1) * (content_code.max(initial=0) + 1) + content_code
    fate[~_is_first(pair)] = DUPLICATE_RECORD
    kept = fate == KEPT
    missing = own_code < 0
    times = np.bincount(own_code[kept & ~missing], minlength=own_code.max(initial=0) + 1)
    repeated = ~missing & (times[own_code] > 1)
    replaced = missing | repeated
    hashes = hexadecimal(content.filter(pa.array(replaced)))
    ids = pc.replace_with_mask(own, pa.array(replaced), hashes)
    _mark_clashes(ids, content_code, fate)
    return Ids(ids, fate, int((missing & kept).sum()), int((repeated & kept).sum()))


def hexadecimal(hashes: pa.Array) -> pa.Array:
    """string[n]: binary hashes of equal width as hex digits."""
    width = hashes.type.byte_width
    raw = hashes.take(pa.array(np.arange(len(hashes)))).buffers()[1]
    digits = np.frombuffer(raw.to_pybytes().hex().encode() if raw else b"", np.uint8)[
        : 2 * width * len(hashes)
    ]
    ends = np.arange(len(hashes) + 1, dtype=np.int32) * (2 * width)
    return pa.StringArray.from_buffers(len(hashes), pa.py_buffer(ends), pa.py_buffer(digits))


def repeated_hashes(hashes: pa.Array) -> int:
    """How many of the binary(16)[n] hashes repeat an earlier one."""
    raw = hashes.take(pa.array(np.arange(len(hashes)))).buffers()[1]
    halves = np.frombuffer(raw or b"", np.uint64)[: 2 * len(hashes)].reshape(-1, 2)
    halves = halves[_is_repeated(halves[:, 0])]  # few: sorting by both halves takes long
    order = np.lexsort(halves.T)
    return int((halves[order[1:]] == halves[order[:-1]]).all(axis=1).sum())


def _mark_clashes(ids: pa.Array, content_code: np.ndarray, fate: np.ndarray) -> None:
    # Replacing ids can create new clashes: a record without an id and one with a repeated id may have the
    # same content, and a record's own id may be the content hash of another one.
    kept = np.flatnonzero(fate == KEPT)
    codes = _codes(ids.take(pa.array(kept)))
    _, firsts, place = np.unique(codes, return_index=True, return_inverse=True)
    first = kept[firsts[place]]
    later = first != kept
    same = content_code[kept] == content_code[first]
    fate[kept[later & same]] = DUPLICATE_RECORD
    fate[kept[later & ~same]] = DUPLICATE_ID


def _codes(values: pa.Array) -> np.ndarray:
    return values.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _is_first(codes: np.ndarray) -> np.ndarray:
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first
