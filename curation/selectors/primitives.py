"""What selectors share: seeded keys, groups, quotas. Integer arithmetic wherever an order or a count depends on it."""

import hashlib
import math

import numpy as np
import pyarrow as pa

_CHUNK = 1 << 16


def seeded_keys(seed: int, names: pa.Array) -> np.ndarray:
    """uint64[n]: a 64-bit hash of (seed, name), equal on every machine; sorting by it is a seeded shuffle.

    A sum over the bytes of mix(byte, position), mixed again with the length and a hash of the seed (all splitmix64),
    so that 100 million keys cost seconds; cryptographic strength is not needed to break ties.
    """
    names = names.cast(pa.large_string())
    salt = np.uint64(int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little"))
    parts = [_byte_sums(names.slice(start, _CHUNK)) for start in range(0, len(names), _CHUNK)]
    sums = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    return _mix(_mix(sums) ^ salt)


def _byte_sums(names: pa.Array) -> np.ndarray:
    _, offsets, data = names.buffers()
    ends = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
    used = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data is not None else np.empty(0, np.uint8)
    lengths = np.diff(ends)
    position = np.arange(len(used), dtype=np.int64) - np.repeat(ends[:-1] - ends[0], lengths)
    terms = _mix((position.astype(np.uint64) << np.uint64(8)) | used)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    bounds = ends - ends[0]
    return total[bounds[1:]] - total[bounds[:-1]] + lengths.astype(np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    # splitmix64 (Steele, Lea, Flood 2014); unsigned overflow wraps
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def groups(names: pa.Array) -> tuple[np.ndarray, list[str]]:
    """Codes int64[n] and the distinct names, sorted, so that a code does not depend on the order of the rows."""
    encoded = names.dictionary_encode()
    found = encoded.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    codes = encoded.indices.to_numpy().astype(np.int64)
    return (rank[codes] if len(found) else codes), [found[i] for i in order]


def rank_within(codes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64[n]: the place of each element among those of its own group, when visited in `order`."""
    by_group = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(codes), dtype=np.int64)
    place[by_group] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return place


def quota(sizes: np.ndarray, lift: np.ndarray, budget: int) -> np.ndarray:
    """int64[k]: how many of each group, proportional to size · exp(lift), at most `sizes`, in sum exactly `budget`.

    Largest remainders; what a full group cannot take is shared out again among the others, equal remainders favour
    the earlier group. `lift` zero is proportional to size. Raises ValueError if the groups hold fewer than `budget`.
    """
    sizes, lift = np.asarray(sizes, dtype=np.int64), np.asarray(lift, dtype=np.float64)
    if sizes.sum() < budget:
        raise ValueError(f"the groups hold {sizes.sum()} rows, {budget} are asked for")
    full = sizes == 0
    exact = np.zeros(len(sizes))
    while not full.all():
        top = lift[~full].max()  # anew in each turn, or the weights of low groups would underflow for good
        # math.exp: numpy's differs in the last bit between SIMD variants, and a remainder may hang on it
        weights = np.array([0.0 if f else n * math.exp(x - top) for n, x, f in zip(sizes, lift, full, strict=True)])
        exact = weights * ((budget - int(sizes[full].sum())) / weights.sum())
        over = ~full & (exact >= sizes)
        if not over.any():
            break
        full |= over
    counts = np.where(full, sizes, np.floor(exact + 1e-9).astype(np.int64))
    remainder = np.where(full, -np.inf, np.round(exact - counts, 9))
    counts[np.argsort(-remainder, kind="stable")[: int(budget - counts.sum())]] += 1
    return counts


def spread(sizes: np.ndarray, budget: int, offset: int) -> np.ndarray:
    """int64[k]: proportional counts by systematic sampling: each is the exact share rounded down or up.

    Unlike largest remainders it does not always round the same small groups down: a group whose share is 0.2 gets
    one for a fifth of the values of `offset` (0 <= offset < sum of sizes). In sum exactly `budget`.
    """
    total = int(sizes.sum())
    ends = (np.cumsum(sizes) * budget + offset) // total
    return np.diff(ends, prepend=0)
