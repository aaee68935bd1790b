"""Copies by stored vectors: samples whose embeddings point the same way, inside clusters.

Every pair of a pool is too many; near vectors lie in one cluster of `python -m curation.signals clusters`
(SemDeDup, arXiv 2303.09540). A pair on two sides of a border between clusters is missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation.pool.errors import PoolArgumentError
from curation.selectors.primitives.cosine import Lookup, cosines, lookup
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vector_files import is_vector, matrix

if TYPE_CHECKING:
    from curation.pool.read import Pool

FEW = 20_000
"""So many samples are compared without clusters: 2e8 cosines, seconds."""
_BLOCK = 256


@dataclass(frozen=True)
class Vectors:
    """Which vectors to compare.

    `signals`: folders that hold `column` and, if given, `clusters`, the column of a clustering. Samples are
    copies from `cosine` on; without a vector a sample is no copy.
    """

    signals: Sequence[Path]
    column: str = "emb_dino"
    clusters: str | None = None
    cosine: float = 0.97

    def __post_init__(self) -> None:
        if not 0 < self.cosine <= 1:
            raise ValueError(f"cosine must be above 0 and at most 1, got {self.cosine:g}")


def join_semantic(
    pool: "Pool", vectors: Vectors, group: NDArray[np.int64], rank: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`group` int64[n] with more samples joined: the first of each group is compared with the others' firsts.

    rank: int64[n], lower for a better sample. A row that joins a group brings its own copies along. Raises
    PoolArgumentError for columns that no signal holds, and for a pool of more than FEW samples without
    clusters; SignalError for signals that cannot be read.
    """
    units, known = _units(pool, vectors)
    clusters = _clusters(pool, vectors)
    rows = np.flatnonzero(known & (clusters >= 0) & (group == np.arange(len(group))))
    if vectors.clusters is None and len(rows) > FEW:
        raise PoolArgumentError(
            f"{len(rows):,} samples have a vector, too many to compare each with each: make clusters "
            f"(python -m curation.signals clusters --param column={vectors.column}) and name them"
        )
    rows = rows[np.lexsort((rank[rows], clusters[rows]))]
    joined = np.arange(len(group))
    for members in np.split(rows, np.flatnonzero(np.diff(clusters[rows])) + 1) if len(rows) else []:
        joined[members] = members[_firsts(units, members, vectors.cosine)]
    return joined[group]


def _firsts(units: Lookup, rows: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """int64[k]: for each row the place of the first one before it, itself no copy, that it is a copy of."""
    result = np.arange(len(rows))
    kept: list[int] = []
    firsts = np.empty((0, 0))
    for start in range(0, len(rows), _BLOCK):
        block = units(rows[start : start + _BLOCK])
        inside = cosines(block, block)
        if len(kept):
            before = cosines(block, firsts) >= threshold
            copies = before.any(axis=1)
            result[start : start + len(block)][copies] = np.array(kept)[before.argmax(axis=1)[copies]]
        new: list[int] = []
        for at in range(len(block)):
            if result[start + at] != start + at:
                continue
            near = [other for other in new if inside[at, other] >= threshold]
            if near:
                result[start + at] = start + near[0]
            else:
                new.append(at)
        kept += [start + at for at in new]
        firsts = np.concatenate([firsts.reshape(-1, block.shape[1]), block[new]])
    return result


def _units(pool: "Pool", vectors: Vectors) -> tuple[Lookup, NDArray[np.bool_]]:
    for folder in vectors.signals:
        if vectors.column in read_metadata(folder).get("vectors", {}):
            table = read_signal(folder, pool.hash)
            if is_vector(table[vectors.column].type):
                values, known = matrix(table, vectors.column)
                return lookup(values), known
    raise PoolArgumentError(_missing(vectors.column, vectors, "embeddings --model MODEL"))


def _clusters(pool: "Pool", vectors: Vectors) -> NDArray[np.int64]:
    """int64[n]: the cluster of each row, -1 for none; one for all if none are named."""
    if vectors.clusters is None:
        return np.zeros(len(pool), np.int64)
    for folder in vectors.signals:
        table = read_signal(folder, pool.hash)
        if vectors.clusters in table.column_names:
            return table[vectors.clusters].fill_null(-1).to_numpy().astype(np.int64)
    raise PoolArgumentError(_missing(vectors.clusters, vectors, "clusters"))


def _missing(column: str, vectors: Vectors, command: str) -> str:
    folders = ", ".join(map(str, vectors.signals)) or "no folder"
    return f"no column {column!r} in {folders}: make it with python -m curation.signals {command}"
