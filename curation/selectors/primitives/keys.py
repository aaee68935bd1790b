"""Seeded keys and group codes that do not depend on the order of the rows. Integers throughout."""

import hashlib
from functools import lru_cache

import numpy as np
import pyarrow as pa

_CHUNK = 1 << 15


def seeded_keys(seed: int, names: pa.Array) -> np.ndarray:
    """uint64[n]: a 64-bit hash of (seed, name), equal on every machine; sorting by it is a seeded shuffle.

    A sum over the bytes of mix(byte, position), mixed again with the length and a hash of the seed (all
    splitmix64). Vectorised, so 100 million keys take seconds; breaking ties needs no cryptographic strength.
    """
    names = names.cast(pa.large_string())
    salt = np.uint64(int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little"))
    parts = [
        _mix(_mix(_byte_sums(names.slice(start, _CHUNK))) ^ salt) for start in range(0, len(names), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _byte_sums(names: pa.Array) -> np.ndarray:
    """uint64[n]: for each name the sum of mix(position << 8 | byte) over its bytes, and its length."""
    _, offsets, data = names.buffers()
    bounds = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
    used = np.frombuffer(data if data is not None else b"", np.uint8)
    total = np.diff(bounds).astype(np.uint64)
    starts, lengths, left = bounds[:-1], np.diff(bounds), None
    for position in range(int(lengths.max(initial=0))):
        if left is not None or lengths.min() == position:  # some names have ended
            going = np.flatnonzero(lengths > position) if left is None else left[lengths[left] > position]
            left = going
            total[left] += _terms(position)[used[starts[left] + position]]
        else:
            total += _terms(position)[used[starts + position]]
    return total


@lru_cache(maxsize=1024)
def _terms(position: int) -> np.ndarray:
    """uint64[256]: what each byte at `position` adds."""
    return _mix(np.uint64(position << 8) | np.arange(256, dtype=np.uint64))


def _mix(x: np.ndarray) -> np.ndarray:
    # splitmix64 (Steele, Lea, Flood 2014); unsigned overflow wraps
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def groups(names: pa.Array, dtype: type[np.integer] = np.int64) -> tuple[np.ndarray, list[str]]:
    """Codes int[n] of `dtype`, -1 for null, and the distinct names, sorted: independent of the row order.

    A dictionary-encoded array is not encoded again, so the names may include some that no row has.
    """
    encoded = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    entries = encoded.dictionary.to_pylist()
    distinct = sorted({name for name in entries if name is not None})
    place = {name: at for at, name in enumerate(distinct)}
    rank = np.array([*(place.get(name, -1) for name in entries), -1]).astype(dtype)
    codes = (
        encoded.indices.cast(pa.int64()).fill_null(len(entries))
        if encoded.indices.null_count
        else encoded.indices
    )
    return rank[codes.to_numpy()], distinct


def rank_within(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64[n]: the place of each element among those of its own group, visited in `order`."""
    by_group = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(codes), dtype=np.int64)
    place[by_group] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return place
