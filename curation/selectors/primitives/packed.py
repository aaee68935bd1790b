"""Orders by sorting packed words: several times as fast as an argsort, and the same on every CPU.

Each word holds what decides the order in its upper bits and what it belongs to in its lower bits. Equal words are the
same thing, so it does not matter that the sort is not stable.
"""

import numpy as np


def sort_groups(
    codes: np.ndarray, count: int, within: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """`within` ordered by code, then ascending, and where each code starts, int64[count + 1].

    codes, within: integers[n], 0 <= codes < count, 0 <= within < limit. Raises ValueError where the bits of both do
    not fit into 64.
    """
    shift = limit.bit_length()
    if count.bit_length() + shift > 64:
        raise ValueError(f"{count} groups of numbers below {limit} do not fit into 64 bits")
    kind = np.uint32 if count.bit_length() + shift <= 32 else np.uint64
    words = codes.astype(kind)
    words <<= kind(shift)
    words |= within.astype(kind)
    words.sort()
    words &= kind((1 << shift) - 1)
    return words, np.append(0, np.bincount(codes, minlength=count).cumsum()).astype(np.int64)


def hash_order(keys: np.ndarray) -> np.ndarray:
    """int32[n]: the positions by ascending key (uint64[n]), equal keys by position; n < 2^31."""
    shift = np.uint64(len(keys).bit_length())
    mask = (np.uint64(1) << shift) - np.uint64(1)
    words = (keys & ~mask) | np.arange(len(keys), dtype=np.uint64)
    words.sort()
    order = (words & mask).astype(np.int32)
    same = (words[1:] ^ words[:-1]) <= mask  # keys that share their upper bits: settled by the whole key
    if same.any():
        at = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
        order[at] = order[at][np.lexsort((order[at], keys[order[at]]))]
    return order
