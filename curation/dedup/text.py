"""Conversations that are nearly the same: MinHash signatures, their buckets, and the true Jaccard index.

    taken = shingles(words("What is this? A cat."))
    i, j = near_candidates(read_texts(pool, rows, workers=2))    # to be confirmed by `jaccard`

Words are letters and digits of any script in lower case (NFKC), every other sign and every Han, kana or
hangul character for itself; a marker stands before each question and answer. A shingle is three of these in a
row. Signatures are rensa's R-MinHash of 128 slots; texts that agree in one of 21 bands of six slots are
candidates (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4): a pair of Jaccard index
0.8 is found with probability 0.998, one of 0.9 with 1 - 2e-7, one of 0.4 with 0.08.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from curation.pool.errors import PoolError
from curation.pool.isolated import Lost, WorkersFail, run
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.progress import Progress

SLOTS, BANDS, ROWS = 128, 21, 6
SHINGLE = 3
SEED = 1
SLACK = 0.15
"""How far a signature's estimate may lie below the threshold: 4 standard errors at 128 slots."""
_ALONE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")
_QUESTION, _ANSWER, _SYSTEM, _END = "\x01", "\x02", "\x03", "\x04"
_CHUNK = 2048
_PAIRED = 32  # in larger buckets, texts are compared with a few of them only
_COLUMNS = ("file", "byte_offset", "byte_length", "record_hash", "id", "source")


def words(text: str) -> list[str]:
    """The words of a text, without image placeholders."""
    return _WORD.findall(unicodedata.normalize("NFKC", text.replace(IMAGE_PLACEHOLDER, " ")).casefold())


def conversation(sample: Sample) -> list[str]:
    """The words of a sample's system prompt, questions and answers, with a marker before each."""
    taken = [_SYSTEM, *words(sample.system)] if sample.system else []
    for turn in sample.turns:
        taken += [_QUESTION, *words(turn.question), _ANSWER, *words(turn.answer)]
    return [*taken, _END]


def shingles(taken: Sequence[str], size: int = SHINGLE) -> set[str]:
    """Every `size` words in a row; the whole text if it is shorter."""
    if len(taken) <= size:
        return {" ".join(taken)}
    return {" ".join(taken[at : at + size]) for at in range(len(taken) - size + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    """Common shingles as a share of all: 1 for equal sets."""
    common = len(a & b)
    return common / (len(a) + len(b) - common) if a or b else 1.0


@dataclass(frozen=True)
class Texts:
    """Texts of n samples. `text` int64[n]: equal for equal words, 0 to k - 1; `words` int32[n]: how many.

    `first` int64[k]: a sample that has each of the k distinct texts. Of the samples, bands: uint32[n, BANDS];
    signature: uint8[n, SLOTS], the lowest byte of each slot.
    """

    text: np.ndarray
    words: np.ndarray
    first: np.ndarray
    bands: np.ndarray
    signature: np.ndarray


def read_texts(
    pool: "Pool", rows: np.ndarray, *, workers: int = 0, on_progress: "Progress | None" = None
) -> Texts:
    """Read and sign the conversations of `rows` int64[n] in worker processes (0: in this one).

    Raises PoolError where a record changed since the build, or a worker died.
    """
    blocks = _Blocks(pool, rows)
    signed = tuple(np.empty((len(rows), *part.shape[1:]), part.dtype) for part in _signed([]))
    done = 0
    for at, result in _results(blocks, workers):
        for whole, part in zip(signed, result, strict=True):
            whole[at * _CHUNK : at * _CHUNK + len(part)] = part
        done += len(result[0])
        if on_progress:
            on_progress(done, len(rows))
    digests, counts, bands, signature = signed
    _, first, text = np.unique(digests, return_index=True, return_inverse=True)
    return Texts(text.reshape(-1), counts, first, bands, signature)


def _results(blocks: "_Blocks", workers: int) -> Iterable[tuple[int, tuple[np.ndarray, ...]]]:
    if workers == 0:
        for at in range(len(blocks)):
            yield at, _sign(blocks[at])
        return
    try:
        for at, (result,) in run(_sign, blocks, workers, chunk=1, seconds=600.0):
            if isinstance(result, Lost):
                raise PoolError(f"the process that read texts {result.why}; try --workers 0")
            yield at, result
    except WorkersFail as error:
        raise PoolError(f"the texts cannot be read: {error}; try --workers 0") from error


class _Blocks(Sequence["Pool"]):
    """Rows of a pool as small pools, made when they are asked for: what is sent to a worker."""

    def __init__(self, pool: "Pool", rows: np.ndarray) -> None:
        self._pool, self._rows = pool, rows

    def __len__(self) -> int:
        return -(-len(self._rows) // _CHUNK)

    @overload
    def __getitem__(self, at: int) -> "Pool": ...
    @overload
    def __getitem__(self, at: slice) -> list["Pool"]: ...
    def __getitem__(self, at: int | slice) -> "Pool | list[Pool]":
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        return part_of(self._pool, self._rows[at * _CHUNK : (at + 1) * _CHUNK])


def part_of(pool: "Pool", rows: np.ndarray) -> "Pool":
    """Some rows of a pool as a small pool of their own, which a worker process can be sent."""
    taken = pool.table.select(_COLUMNS).take(pa.array(rows))
    info: dict[str, Any] = {"hash": pool.hash, "options": pool.info.get("options", {})}
    return type(pool)(pool.folder, taken, info, pool.files, pool.images)


def _sign(pool: "Pool") -> tuple[np.ndarray, ...]:
    return _signed([conversation(sample) for sample in pool.samples()])


def _signed(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, ...]:
    """(digests V16[n], numbers of words int32[n], bands uint32[n, BANDS], signatures uint8[n, SLOTS])."""
    digests = b"".join(blake2b("\x1f".join(text).encode(), digest_size=16).digest() for text in texts)
    slots = signatures([shingles(text) for text in texts])
    bands = np.zeros((len(texts), BANDS), np.uint32)
    for row in range(ROWS):
        bands = (bands ^ slots[:, row : BANDS * ROWS : ROWS]) * np.uint32(0x9E3779B1)
        bands ^= bands >> np.uint32(15)
    counts = np.array([len(text) for text in texts], np.int32)
    return np.frombuffer(digests, "V16"), counts, bands, slots.astype(np.uint8)


def signatures(sets: Sequence[set[str]]) -> np.ndarray:
    """uint32[n, SLOTS]: the R-MinHash of each set."""
    from rensa import RMinHash

    if not sets:
        return np.empty((0, SLOTS), np.uint32)
    return np.array(RMinHash.digests_from_token_sets([list(s) for s in sets], SLOTS, SEED), np.uint32)


def near_candidates(texts: Texts, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j) of distinct texts that agree in a band and whose signatures are within `SLACK` of
    `threshold`: edges, not all pairs. In a crowded bucket each text is compared with some that are unlike
    each other, so that what belongs together is connected, at a cost that is not quadratic.
    """
    found: list[np.ndarray] = [np.empty((2, 0), np.int64)]
    for band in range(BANDS):
        keys = texts.bands[texts.first, band]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
        sizes = np.diff(np.append(starts, len(ordered)))
        small = (sizes > 1) & (sizes <= _PAIRED)
        for size in np.unique(sizes[small]):
            members = order[starts[sizes == size] + np.arange(size)[:, None]]
            first, second = np.triu_indices(size, 1)
            pairs = np.stack([members[first].ravel(), members[second].ravel()])
            found.append(pairs[:, _alike(texts, pairs[0], pairs[1], threshold)])
        for start, size in zip(starts[sizes > _PAIRED], sizes[sizes > _PAIRED], strict=True):
            found += _among_crowd(texts, order[start : start + size], threshold)
    i, j = np.concatenate(found, axis=1)
    return np.divmod(np.unique(np.minimum(i, j) * len(order) + np.maximum(i, j)), len(order))


def _among_crowd(texts: Texts, members: np.ndarray, threshold: float) -> list[np.ndarray]:
    found, left = [], members
    while len(left) > 1:
        alike = _alike(texts, left[:1], left[1:], threshold)
        found.append(np.stack([np.repeat(left[0], alike.sum()), left[1:][alike]]))
        left = left[1:][~alike]
    return found


def _alike(texts: Texts, i: np.ndarray, j: np.ndarray, threshold: float) -> np.ndarray:
    """Whether the estimates of pairs are near the threshold. Memory: a part of the pairs at once."""
    i, j = np.broadcast_arrays(texts.first[i], texts.first[j])
    result = np.empty(len(i), bool)
    for start in range(0, len(i), 1 << 16):
        part = slice(start, start + (1 << 16))
        result[part] = estimates(texts.signature[i[part]], texts.signature[j[part]]) >= threshold - SLACK
    return result


def estimates(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64: the Jaccard index by signatures uint8[..., SLOTS], without what equals by chance."""
    equal = (a == b).mean(axis=-1)
    return (equal - 1 / 256) / (1 - 1 / 256)
