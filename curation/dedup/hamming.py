"""Exact search of 64-bit hashes within a Hamming radius, for millions of hashes.

    i, j, distance = pairs(hashes, None, radius=8)         # inside one array, i < j
    i, j, distance = pairs(of_pool, of_benchmarks, radius=8)

The bits are cut into m bands. Two hashes within radius r differ in at most r of them, so they agree in m - r
whole bands at least: for each choice of m - r bands, hashes that agree in all of these are compared (Manku,
Jain and Das Sarma, "Detecting near-duplicates for web crawling", 2007). Nothing is missed. m weighs few
choices, which are sorts, against small buckets, which are comparisons. Equal hashes are compared once; a
crowded bucket is searched in the same way by its other bits, so that the bits which a family of pictures
shares (documents, screenshots) do not make the search quadratic.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

BITS = 64
MAX_PAIRS = 200_000_000
"""Most pairs that `pairs` returns: 17 bytes each."""
_SORT, _COMPARE, _CHOICE = 90.0, 2.5, 50_000.0  # nanoseconds: an element, a comparison, a choice of bands
_MOST_AGREE = 6  # most bands that a choice holds
_CROWDED = 4096  # a bucket of more distinct hashes is searched by its other bits
_SAMPLE = 1 << 16
_BLOCK = 1 << 16  # hashes compared at once; they stay in the cache


class TooManyPairsError(ValueError):
    """More pairs than fit in memory: the hashes do not tell the pictures apart, or the radius is too wide."""


@dataclass(frozen=True)
class Groups:
    """Equal values of an array: `values` uint64[k] distinct and ascending; the places of the k-th are
    `order[starts[k] : starts[k + 1]]`.
    """

    values: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64[k]: how often each value occurs."""
        return np.diff(self.starts)


def distinct(hashes: np.ndarray) -> Groups:
    """The distinct values of uint64[n] and where each occurs."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    return Groups(ordered[first], order, np.append(first, len(ordered)))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """uint8: the number of bits in which uint64 arrays (broadcast) differ."""
    return np.bitwise_count(a ^ b)


def pairs(
    a: np.ndarray, b: np.ndarray | None, radius: int, *, max_pairs: int = MAX_PAIRS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs within `radius` bits: (i int64[p], j int64[p], distance uint8[p]), sorted by (i, j).

    a uint64[n], b uint64[m] or None: pairs i < j inside `a`. Equal hashes are pairs of distance 0. Raises
    TooManyPairsError beyond `max_pairs`; `distinct_pairs` finds the pairs of distinct hashes alone, which are
    far fewer where many pictures share one hash.
    """
    of_a = distinct(_hashes(a))
    of_b = of_a if b is None else distinct(_hashes(b))
    first, second, distance = distinct_pairs(of_a.values, None if b is None else of_b.values, radius)
    size_a, size_b = of_a.counts, of_b.counts
    equal = (size_a * (size_a - 1)).sum() // 2 if b is None else 0
    total = int((size_a[first] * size_b[second]).sum() + equal)
    if total > max_pairs:
        raise TooManyPairsError(
            f"{total:,} pairs of hashes are within {radius} bits, more than {max_pairs:,}: lower the radius, "
            "or leave out the hashes that many pictures share"
        )
    i, j, which = _expanded(of_a, of_b, first, second)
    found = distance[which]
    if b is None:
        inner_i, inner_j = _inside(of_a)
        i, j = np.concatenate([i, inner_i]), np.concatenate([j, inner_j])
        i, j = np.minimum(i, j), np.maximum(i, j)
        found = np.concatenate([found, np.zeros(len(inner_i), np.uint8)])
    order = np.lexsort((j, i))
    return i[order], j[order], found[order]


def distinct_pairs(
    a: np.ndarray, b: np.ndarray | None, radius: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of distinct hashes: places in `a` and `b` (or in `a` twice, each pair once), in no order."""
    if not 0 <= radius < BITS:
        raise ValueError(f"radius must be from 0 to {BITS - 1}, got {radius}")
    a = _hashes(a)
    return _search(a, None if b is None else _hashes(b), radius)


def components(values: np.ndarray, radius: int) -> np.ndarray:
    """int64[k]: the same number for distinct hashes that a chain of pairs within `radius` connects.

    Pairs are not kept, so that memory does not grow with their number.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(len(values))
    for i, j, _ in _search_by_choices(_hashes(values), None, radius):
        edges = labels[i], labels[j]
        graph = coo_array((np.ones(len(i), bool), edges), shape=(len(values), len(values)))
        labels = connected_components(graph, directed=False)[1][labels].astype(np.int64)
    return labels


def _hashes(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype != np.uint64 or values.ndim != 1:
        raise TypeError(f"hashes must be uint64[n], got {values.dtype}{list(values.shape)}")
    return values


Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places in the two arrays int64[p] and distances uint8[p] of pairs."""


def _search(a: np.ndarray, b: np.ndarray | None, radius: int) -> Found:
    """The pairs of distinct hashes, each once."""
    return _joined(_search_by_choices(a, b, radius))


def _search_by_choices(a: np.ndarray, b: np.ndarray | None, radius: int) -> Iterator[Found]:
    """The same in parts, one for each choice of bands."""
    plan = _plan(a, b, radius)
    if plan is None:
        yield _compare_all(a, b, radius)
        return
    a = plan.permuted(a)
    b = None if b is None else plan.permuted(b)
    for chosen in combinations(range(len(plan.widths)), plan.agree):
        i, j, distance = _joined(
            _agreeing_inside(a, plan, chosen, radius) if b is None else _agreeing(a, b, plan, chosen, radius)
        )
        new = plan.is_first_choice(chosen, a[i] ^ (a if b is None else b)[j])
        yield i[new], j[new], distance[new]


def _joined(parts: Iterable[Found]) -> Found:
    empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
    i, j, distance = zip(empty, *parts, strict=True)
    return np.concatenate(i), np.concatenate(j), np.concatenate(distance)


@dataclass(frozen=True)
class _Plan:
    """How the bits are cut. `order`: the bits that vary, band after band; `widths`: bits of each band;
    `agree`: in how many bands two hashes within the radius agree at least.
    """

    order: tuple[int, ...]
    widths: tuple[int, ...]
    agree: int

    def permuted(self, hashes: np.ndarray) -> np.ndarray:
        """The hashes with their bits in this order, the first band lowest, without bits that never vary."""
        result = np.zeros_like(hashes)
        for place, bit in enumerate(self.order):
            result |= ((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
        return result

    def masks(self) -> list[int]:
        """The bits of each band in permuted hashes."""
        starts = np.cumsum([0, *self.widths])
        return [((1 << width) - 1) << int(start) for width, start in zip(self.widths, starts, strict=False)]

    def keys(self, permuted: np.ndarray, chosen: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """(the bits of the chosen bands side by side, how many bits these are)."""
        starts, at = np.cumsum([0, *self.widths]), 0
        keys = np.zeros_like(permuted)
        for band in chosen:
            part = (permuted >> np.uint64(starts[band])) & np.uint64((1 << self.widths[band]) - 1)
            keys |= part << np.uint64(at)
            at += self.widths[band]
        return keys, at

    def is_first_choice(self, chosen: tuple[int, ...], differing: np.ndarray) -> np.ndarray:
        """Whether no earlier choice compared the pairs, too: these are the first bands that agree."""
        masks = self.masks()
        first = np.ones(len(differing), bool)
        for band in set(range(chosen[-1])) - set(chosen):
            first &= (differing & np.uint64(masks[band])) != 0
        return first


def _plan(a: np.ndarray, b: np.ndarray | None, radius: int) -> _Plan | None:
    """The cheapest cut by a sample's estimate; None if comparing all with all is cheapest."""
    n, m = len(a), len(a) if b is None else len(b)
    comparisons = n * m * (0.5 if b is None else 1.0)
    best, cost = None, comparisons * _COMPARE
    if min(n, m) < 2 or cost < _CHOICE * (radius + 1):
        return None
    sample = _sampled(a), None if b is None else _sampled(b)
    entropy = _entropies(a if b is None else np.concatenate([a, b]))
    for bands in range(radius + 1, min(radius + 1 + _MOST_AGREE, int((entropy > 0).sum())) + 1):
        choices = comb(bands, bands - radius)
        fixed = choices * (_CHOICE + _SORT * (n if b is None else n + m))
        if fixed >= cost:
            break
        plan = _cut(entropy, bands, bands - radius)
        estimate = fixed + choices * _COMPARE * comparisons * _collisions(plan, *sample)
        if estimate < cost:
            best, cost = plan, estimate
    return best


def _sampled(hashes: np.ndarray) -> np.ndarray:
    step = max(1, len(hashes) // _SAMPLE)
    return hashes[::step]


def _entropies(hashes: np.ndarray) -> np.ndarray:
    """float64[64]: bits of information of each bit; 0 where it never varies."""
    ones = np.array([np.count_nonzero(hashes & np.uint64(1 << bit)) for bit in range(BITS)]) / len(hashes)
    return -np.log2(np.clip(ones**2 + (1 - ones) ** 2, None, 1.0))


def _cut(entropy: np.ndarray, bands: int, agree: int) -> _Plan:
    """Bands of about the same information each."""
    members: list[list[int]] = [[] for _ in range(bands)]
    filled = np.zeros(bands)
    for bit in np.argsort(-entropy, kind="stable"):
        if entropy[bit] > 0:
            least = int(filled.argmin())
            members[least].append(int(bit))
            filled[least] += entropy[bit]
    return _Plan(tuple(bit for band in members for bit in band), tuple(len(band) for band in members), agree)


def _collisions(plan: _Plan, a: np.ndarray, b: np.ndarray | None) -> float:
    """Share of all pairs that agree in a choice of bands, the mean of a few choices on the sample."""
    a = plan.permuted(a)
    b = a if b is None else plan.permuted(b)
    choices = list(combinations(range(len(plan.widths)), plan.agree))
    shares = []
    for chosen in choices[:: max(1, len(choices) // 4)]:
        in_a, counts_a = np.unique(plan.keys(a, chosen)[0], return_counts=True)
        in_b, counts_b = np.unique(plan.keys(b, chosen)[0], return_counts=True)
        _, at_a, at_b = np.intersect1d(in_a, in_b, assume_unique=True, return_indices=True)
        itself = len(a) if a is b else 0  # a hash beside itself is no pair
        shares.append((int((counts_a[at_a] * counts_b[at_b]).sum()) - itself) / (len(a) * len(b)))
    return float(np.mean(shares))


def _compare_all(a: np.ndarray, b: np.ndarray | None, radius: int) -> Found:
    """Every hash with every other."""
    if b is None:
        return _joined(_compare_columns(a[:, None], np.arange(len(a))[:, None], radius))
    parts = []
    step = max(1, _BLOCK // max(len(b), 1))
    for start in range(0, len(a), step):
        distance = distances(a[start : start + step, None], b[None, :])
        i, j = np.nonzero(distance <= radius)
        parts.append((i + start, j, distance[i, j]))
    return _joined(parts)


def _bucketed(keys: np.ndarray, width: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """(places by ascending key, the keys in that order). `room`: bits for a place, which no key may use."""
    if width + room > BITS:  # a shorter key makes more candidates and misses none
        keys = keys & np.uint64((1 << (BITS - room)) - 1)
    # sorting key and place in one number is faster than an argsort
    ordered = np.sort((keys << np.uint64(room)) | np.arange(len(keys), dtype=np.uint64))
    return (ordered & np.uint64((1 << room) - 1)).astype(np.int64), ordered >> np.uint64(room)


def _room(count: int) -> int:
    return max(int(count - 1).bit_length(), 1)


def _agreeing_inside(a: np.ndarray, plan: _Plan, chosen: tuple[int, ...], radius: int) -> Iterator[Found]:
    """Pairs within the radius of the hashes that agree in the chosen bands."""
    places, keys = _bucketed(*plan.keys(a, chosen), _room(len(a)))
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(starts, len(a)))
    crowded = sizes > _CROWDED
    for start, size in zip(starts[crowded], sizes[crowded], strict=True):
        members = places[start : start + size]
        i, j, distance = _search(a[members], None, radius)
        yield members[i], members[j], distance
    for size in np.unique(sizes[(sizes > 1) & ~crowded]):
        same = starts[sizes == size]
        step = max(1, _BLOCK // int(size))
        for block in range(0, len(same), step):
            # buckets of one size side by side: row p holds the p-th hash of each
            members = places[same[block : block + step] + np.arange(size)[:, None]]
            yield from _compare_columns(a[members], members, radius)


def _compare_columns(values: np.ndarray, members: np.ndarray, radius: int) -> Iterator[Found]:
    """The pairs inside each column of values [size, buckets]; `members` are their places."""
    size = len(values)
    step = max(
        1, _BLOCK // max(values.size, 1)
    )  # rows compared at once: tall columns would need many small steps
    for p in range(0, size - 1, step):
        distance = distances(values[None, p + 1 :], values[p : p + step, None])
        hits = np.flatnonzero(distance <= radius)
        if len(hits):
            row, other, bucket = np.unravel_index(hits, distance.shape)
            later = other >= row
            row, other, bucket = row[later] + p, other[later] + p + 1, bucket[later]
            yield members[row, bucket], members[other, bucket], distance.ravel()[hits[later]]


def _agreeing(
    a: np.ndarray, b: np.ndarray, plan: _Plan, chosen: tuple[int, ...], radius: int
) -> Iterator[Found]:
    """The same between two arrays."""
    room = _room(max(len(a), len(b)))
    in_a, keys_a = _bucketed(*plan.keys(a, chosen), room)
    in_b, keys_b = _bucketed(*plan.keys(b, chosen), room)
    low, high = np.searchsorted(keys_a, keys_b), np.searchsorted(keys_a, keys_b, side="right")
    crowded = high - low > _CROWDED
    for key in np.unique(keys_b[crowded]):
        first, last = np.searchsorted(keys_b, [key, key + np.uint64(1)])
        of_a, of_b = in_a[low[first] : high[first]], in_b[first:last]
        i, j, distance = _search(a[of_a], b[of_b], radius)
        yield of_a[i], of_b[j], distance
    low, high, in_b = low[~crowded], high[~crowded], in_b[~crowded]
    ends = np.cumsum(high - low)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + 16 * _BLOCK, side="right")))
        counts = (high - low)[start:stop]
        i = in_a[_ranges(low[start:stop], counts)]
        j = np.repeat(in_b[start:stop], counts)
        distance = distances(a[i], b[j])
        close = distance <= radius
        yield i[close], j[close], distance[close]
        start = stop


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64: start, start + 1, ... (count of them) for each start, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def _expanded(
    of_a: Groups, of_b: Groups, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of distinct values -> (i, j, number of the pair of values) of all places that hold them."""
    size_a, size_b = of_a.counts[first], of_b.counts[second]
    which = np.repeat(np.arange(len(first)), size_a)
    i = of_a.order[_ranges(of_a.starts[first], size_a)]
    repeats = size_b[which]
    j = of_b.order[_ranges(of_b.starts[second][which], repeats)]
    return np.repeat(i, repeats), j, np.repeat(which, repeats)


def _inside(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """(i, j) of all pairs of places that hold the same value."""
    place = np.arange(len(groups.order))
    later = np.repeat(groups.starts[1:], groups.counts) - place - 1
    return np.repeat(groups.order, later), groups.order[_ranges(place + 1, later)]
