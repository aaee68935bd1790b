"""Bins of a round-robin: which rows stand in which, made from the styles said of each row and its source."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.selectors.contract import ColumnError, require
from curation.selectors.kernels import compiled
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.packed import sort_groups

LEVELS, DEEPEST = 255, 17
"""Levels of a row (see `Ranking`), and the positions that they are split over at most."""
BLOCK = 1 << 15
"""Rows or entries that stay in the processor's cache."""


@dataclass(frozen=True)
class Said:
    """Names said of n rows: those of row i are `codes[starts[i]:starts[i + 1]]`.

    codes int32[m] index `names`, -1 where nothing is said; starts int64[n + 1].
    """

    codes: np.ndarray
    starts: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, columns: pa.Table, name: str, split: bool = False) -> "Said":
        """From a column of lists of text, dictionary-encoded or not, or with `split` of text cut at commas. Raises ColumnError."""
        require(columns, [name])
        lists = columns[name].combine_chunks()
        if split and (pa.types.is_string(lists.type) or pa.types.is_large_string(lists.type)):
            lists = pc.split_pattern(lists, ",")
        if not _lists_of_text(lists.type):
            raise ColumnError(
                name,
                f"column {name!r} is {columns[name].type}, {'neither list<string> nor text' if split else 'not list<string>'}",
            )
        codes, names = groups(lists.flatten(), np.int32)
        if lists.null_count:  # what lies behind a null is not part of the flat array
            counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
            return cls(codes, np.concatenate([[0], counts.cumsum(dtype=np.int64)]), names)
        ends = lists.offsets.to_numpy().astype(np.int64)
        return cls(codes, ends - ends[0], names)

    @cached_property
    def rows(self) -> np.ndarray:
        """int32[m]: the row of which each is said."""
        return np.arange(len(self.starts) - 1, dtype=np.int32).repeat(np.diff(self.starts))

    def without(self, name: str) -> "Said":
        """As if `name` were said of no row."""
        if name not in self.names:
            return self
        at = self.names.index(name)
        return Said(np.where(self.codes == at, np.int32(-1), self.codes), self.starts, self.names)

    def met(self, sources: np.ndarray, width: int, engine: str) -> np.ndarray:
        """int64[p]: the pairs name * `width` + source that occur, ascending; sources int[n], 0 <= source < width."""
        if engine == "numba":
            return np.flatnonzero(compiled().met(self.codes, self.starts, sources, width, len(self.names)))
        pairs = (self.codes.astype(np.int64) * width + sources[self.rows])[self.codes >= 0]
        return np.flatnonzero(np.bincount(pairs, minlength=len(self.names) * width))


@cache
def narrowed(depth: int) -> np.ndarray:
    """uint8[256]: levels 1 to 255 as 1 to 255 // `depth`, in the same order; 0 stays 0."""
    return (-(-np.arange(LEVELS + 1) * (LEVELS // depth) // LEVELS)).astype(np.uint8)


def _lists_of_text(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    value = kind.value_type.value_type if pa.types.is_dictionary(kind.value_type) else kind.value_type
    return pa.types.is_string(value) or pa.types.is_large_string(value)


@dataclass(frozen=True)
class Bins:
    """Which rows stand in which bins: those of bin b are `rows[starts[b]:starts[b + 1]]`, each once, ascending.

    rows int32[m], starts int64[bins + 1]; positions int32[m] or none: entries of a lower position come first in a bin,
    whatever their scores. Lower bins win ties of size. `bare`: how many rows have no name said of them.
    """

    rows: np.ndarray
    starts: np.ndarray
    positions: np.ndarray | None = None
    bare: int = 0

    @classmethod
    def of(
        cls,
        said: Said,
        sources: np.ndarray,
        of_pair: np.ndarray,
        *,
        width: int,
        bare: int | None = None,
        placed: bool = False,
        engine: str = "numpy",
    ) -> "Bins":
        """Bin `of_pair[name * width + source]` for each name said of a row; a name said again, or another of the same bin, is dropped.

        sources int32[n]; of_pair int32[names * width]. bare: the code of the name of the rows of which nothing is said; without it
        they stand nowhere. placed: an entry's position is its place among those of its row.
        """
        count = int(of_pair.max(initial=-1)) + 1
        if engine == "numba":
            rows, starts, positions, without = compiled().lay_out(
                said.codes, said.starts, sources, of_pair, width, count, -1 if bare is None else bare, placed
            )
            return cls(rows, starts, positions if placed else None, without)
        rows, names = said.rows, said.codes
        if (unsaid := names < 0).any():
            rows, names = rows[~unsaid], names[~unsaid]
        sizes = np.bincount(rows, minlength=len(sources))
        positions = np.arange(len(rows)) - (sizes.cumsum() - sizes)[rows] if placed else None
        empty = np.flatnonzero(sizes == 0).astype(np.int32)
        if bare is not None and len(empty):
            rows, names = np.append(rows, empty), np.append(names, np.full(len(empty), bare, np.int32))
            positions = None if positions is None else np.append(positions, np.zeros(len(empty), np.int64))
        bins = of_pair[names * np.int64(width) + sources[rows]]
        rows, starts, positions = _by_bin(bins, count, rows, len(sources), positions)
        return cls(rows, starts, positions, len(empty))

    @cached_property
    def depth(self) -> int:
        """Positions that are told apart by level; entries of later ones share the last, and its lowest level."""
        return 1 if self.positions is None else min(int(self.positions.max(initial=0)) + 1, DEEPEST)

    @cached_property
    def ahead(self) -> np.ndarray:
        """uint8[m]: the levels by which an entry is ahead of the last position."""
        if self.positions is None:
            return np.zeros(len(self.rows), np.uint8)
        last = self.depth - 1
        return (last - np.minimum(self.positions, last)).astype(np.uint8) * np.uint8(LEVELS // self.depth)

    def lift(self, level: np.ndarray) -> np.ndarray:
        """uint8[m]: the levels of all entries' rows such that a lower position is always higher; 0 stays 0."""
        here = np.empty(len(self.rows), np.uint8)
        for start in range(0, len(here), BLOCK):
            block = slice(start, start + BLOCK)
            part = level[self.rows[block]]
            if self.depth > 1:
                ahead = self.ahead[block]
                lifted = (narrowed(self.depth)[part] + ahead) * (part > 0)
                part = np.where(ahead > 0, lifted, part > 0) if self.depth == DEEPEST else lifted
            here[block] = part
        return here

    def count(self, wanted: np.ndarray) -> np.ndarray:
        """int64[bins]: how many of the entries where `wanted` bool[m] each bin has."""
        spans = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return np.array([np.count_nonzero(wanted[start:end]) for start, end in spans], np.int64)


def _by_bin(
    bins: np.ndarray, count: int, rows: np.ndarray, n: int, positions: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Entries by bin, then row, then position, without those that repeat the row before; where each bin starts."""
    bits = 0 if positions is None else int(positions.max(initial=0)).bit_length()
    words = rows if positions is None else rows.astype(np.int64) << bits | positions
    words, starts = sort_groups(bins, count, words, n << bits)
    words = words.astype(np.int64)
    rows = (words >> bits).astype(np.int32)
    again = np.flatnonzero(rows[1:] == rows[:-1]) + 1  # equal neighbours of different bins are no repeats
    again = again[~np.isin(again, starts)]
    if positions is not None:
        positions = _moved_up(words, rows, again, bits)
    if not len(again):
        return rows, starts, positions
    return (
        np.delete(rows, again),
        starts - np.searchsorted(again, starts),
        None if positions is None else np.delete(positions, again),
    )


def _moved_up(words: np.ndarray, rows: np.ndarray, again: np.ndarray, bits: int) -> np.ndarray:
    """int32[m]: positions (the lower `bits` of the words), less the repeats before them in the same row."""
    positions = (words & ((1 << bits) - 1)).astype(np.int32)
    dropped, touched = np.sort(words[again]), np.zeros(int(rows.max(initial=0)) + 1, bool)
    touched[rows[again]] = True
    moved = np.flatnonzero(touched[rows])
    before, own = (
        np.searchsorted(dropped, words[moved] >> bits << bits),
        np.searchsorted(dropped, words[moved]),
    )
    positions[moved] -= (own - before).astype(np.int32)
    return positions
