"""Find the samples of a pool that are copies of each other.

    found = find_duplicates(pool)
    found.table        # row, dup_group, dup_kind, dup_first

Several questions about one picture are no copies: LLaVA-665K asks about a COCO image up to five times. Two
samples are copies if all their pictures are the same or nearly so *and* their words are; without pictures the
words decide. `Rule(text="any")` asks for copies of the pictures alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.dedup.clusters import Block, Blocks, Rule, split
from curation.dedup.images import Images, Numbers, mixed, read_images
from curation.dedup.text import BANDS, SLOTS, Texts, near_candidates, read_texts
from curation.dedup.vectors import Vectors, join_semantic
from curation.selectors.primitives.keys import seeded_keys

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.progress import Progress

    Steps = Callable[[str], Progress | None]

KINDS: dict[str, str] = {
    "exact": "the record is that of another sample, under another id",
    "same": "the words (but for case, width and spaces) and the bytes of the pictures are those of another",
    "near_image": "the words are those of the first of the group, the pictures nearly, or alike",
    "near_text": "the pictures are those of the first of the group (or there are none), the words nearly",
    "near_both": "pictures and words are nearly those of the first of the group",
    "image_exact": "the bytes of the pictures are those of the first of the group, whatever the words",
    "image_near": "the pictures are nearly those of the first of the group, whatever the words",
    "semantic": "the vectors point where those of the first of the group do",
}
"""Kind of copy -> meaning, the strictest first. A row has the strictest kind that ties it to its group."""
_CODE = {kind: code for code, kind in enumerate(KINDS)}
_UNIQUE = 127


@dataclass(frozen=True)
class Found:
    """Which samples are copies. `group` int64[n]: the row of the sample that stands for it, its own for one
    that is no copy; `kind` int8[n]: place in KINDS, 127 for a sample that is alone.
    """

    group: Numbers
    kind: NDArray[np.int8]
    images: Images

    @property
    def first(self) -> NDArray[np.bool_]:
        """bool[n]: the samples to keep, one of each group."""
        return self.group == np.arange(len(self.group))

    @property
    def table(self) -> pa.Table:
        """row int32, dup_group int32, dup_kind string (null: alone), dup_first bool."""
        alone = self.kind == _UNIQUE
        names = pa.array(list(KINDS)).take(pa.array(np.where(alone, 0, self.kind)))
        kinds = pa.array(np.array(names), pa.string(), mask=alone) if len(alone) else names
        return pa.table(
            {
                "row": pa.array(np.arange(len(self.group), dtype=np.int32)),
                "dup_group": pa.array(self.group.astype(np.int32)),
                "dup_kind": kinds,
                "dup_first": pa.array(self.first),
            }
        )


def find_duplicates(
    pool: "Pool",
    rule: Rule | None = None,
    *,
    vectors: Vectors | None = None,
    workers: int = 0,
    steps: "Steps | None" = None,
) -> Found:
    """Group the samples of a pool that are copies of each other by `rule`.

    The first of a group, which is kept, is the one of the most pixels, then of the most text tokens, then of
    the lowest hash of its id: it does not depend on the order of the pool. Every other one is a copy of it,
    not only of one that is a copy of it; with `vectors`, groups whose firsts are near are joined. workers:
    processes that read texts and compare pictures; 0: none. steps: gives the progress callback of the step
    that it is named.

    Raises PoolArgumentError where images.parquet lacks the hashes that are needed, or `vectors` do not fit;
    PoolError where files changed; SignalError for signals that cannot be read.
    """
    rule = rule or Rule()
    progress = steps or (lambda name: None)
    images = read_images(pool, None if rule.images == "exact" else rule.radius)
    family = images.key(images.family if rule.images != "alike" else np.zeros_like(images.family))
    rows = np.flatnonzero(_is_repeated(family))
    if rule.text == "any":
        rows = rows[np.diff(images.offsets)[rows] > 0]
        texts = _no_texts(len(rows))
    else:
        texts = read_texts(pool, rows, workers=workers, on_progress=progress("read texts"))
    chains = _chains(texts, rule)
    block = mixed(family[rows] ^ mixed(chains[texts.text].astype(np.uint64)))
    unit = mixed(images.key(images.content)[rows] ^ mixed(texts.text.astype(np.uint64)))
    rank = _rank(pool, images)
    best = np.argsort(rank[rows])
    units = _Units.of(rows[best], unit[best], block[best], texts.text[best])
    firsts = _split(units, pool, images, texts, rule, workers, progress("compare"))
    found = _found(pool, images, units, firsts, rule)
    return (
        found if vectors is None else _with_semantic(found, join_semantic(pool, vectors, found.group, rank))
    )


def _rank(pool: "Pool", images: Images) -> Numbers:
    """int64[n]: the place of each row from the best to the worst."""
    lot = seeded_keys(0, pool.table["id"].combine_chunks())
    tokens = pool.table["text_tokens"].fill_null(0).to_numpy()
    rank = np.empty(len(pool), np.int64)
    rank[np.lexsort((lot, -tokens, -images.sums(images.pixels)))] = np.arange(len(pool))
    return rank


def _with_semantic(found: Found, group: Numbers) -> Found:
    """Joined groups; a row that was alone, or the first of its group, is now tied as `semantic`."""
    kind = found.kind.copy()
    joined = np.flatnonzero(found.first & (group != found.group))
    tied = np.concatenate([joined, group[joined]])
    kind[tied] = np.minimum(kind[tied], _CODE["semantic"])
    return Found(group, kind, found.images)


@dataclass(frozen=True)
class _Units:
    """Samples of equal words and pictures, as one. Of u units: row, block, text; of each row its unit."""

    rows: Numbers
    unit: Numbers
    row: Numbers
    block: Numbers
    text: Numbers

    @classmethod
    def of(
        cls, rows: Numbers, unit: NDArray[np.uint64], block: NDArray[np.uint64], text: Numbers
    ) -> "_Units":
        """rows, the best first, and the keys of each."""
        _, first, inverse = np.unique(unit, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")  # units in the order of their best rows
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        first = first[order]
        return cls(
            rows, place[inverse], rows[first], np.unique(block[first], return_inverse=True)[1], text[first]
        )


def _split(
    units: _Units,
    pool: "Pool",
    images: Images,
    texts: Texts,
    rule: Rule,
    workers: int,
    on_progress: "Progress | None",
) -> Numbers:
    """int64[u]: the unit that is the first of each unit's group."""
    firsts = np.arange(len(units.row))
    order = np.argsort(units.block, kind="stable")
    starts = np.flatnonzero(np.diff(units.block[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    several = np.flatnonzero(sizes > 1)
    members = [order[starts[at] : starts[at] + sizes[at]] for at in several]
    paths = pool.image_table["path"]

    def make(number: int) -> Block:
        these = members[number]
        rows, text = units.row[these], units.text[these]
        own = images.of(rows)
        names = paths.take(pa.array(own.ravel())).to_pylist()
        files = np.array(names, object).reshape(own.shape)
        return Block(
            rows, text, texts.signature[texts.first[text]], files, images.content[own], images.hashes[own]
        )

    for number, places in split(Blocks(pool, rule, len(members), make), workers, on_progress):
        firsts[members[number]] = members[number][places]
    return firsts


def _found(pool: "Pool", images: Images, units: _Units, firsts: Numbers, rule: Rule) -> Found:
    group = np.arange(len(pool))
    group[units.rows] = units.row[firsts[units.unit]]
    kind = np.full(len(pool), _UNIQUE, np.int8)
    by_unit = _kinds_of_units(images, units, firsts, rule)
    together = np.bincount(units.unit, minlength=len(units.row))
    by_unit[together > 1] = _CODE["image_exact" if rule.text == "any" else "same"]
    kind[units.rows] = by_unit[units.unit]
    exact = pool.table["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    kind[_is_repeated(exact) & (kind != _UNIQUE)] = _CODE["exact"]
    return Found(group, kind, images)


def _kinds_of_units(images: Images, units: _Units, firsts: Numbers, rule: Rule) -> NDArray[np.int8]:
    """How each unit is tied to the first of its group; the first as the strictest of those that it took."""
    own = images.key(images.content)[units.row]
    same_images, same_text = own == own[firsts], units.text == units.text[firsts]
    near = np.where(same_text, "near_image", np.where(same_images, "near_text", "near_both"))
    names = np.full(len(firsts), "image_near") if rule.text == "any" else near
    codes = np.array([_CODE[name] for name in names.tolist()], np.int8)
    taken = firsts != np.arange(len(firsts))
    kinds = np.where(taken, codes, _UNIQUE).astype(np.int8)
    np.minimum.at(kinds, firsts[taken], codes[taken])
    return kinds


def _chains(texts: Texts, rule: Rule) -> Numbers:
    """int64[k]: the same number for distinct texts that a chain of likely pairs connects."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(texts.first)
    if rule.text != "near":
        return np.arange(count)
    i, j = near_candidates(texts, rule.threshold)
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _no_texts(count: int) -> Texts:
    zeros = np.zeros(count, np.int64)
    bands, signature = np.zeros((count, BANDS), np.uint32), np.zeros((count, SLOTS), np.uint8)
    return Texts(zeros, zeros.astype(np.int32), zeros[:1], bands, signature)


def _is_repeated(keys: np.ndarray) -> NDArray[np.bool_]:
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[inverse] > 1
