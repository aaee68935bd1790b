"""PRISM: the images least like all others, after the mean of the pool is taken from their features.

Source: Bi et al. (arXiv 2502.12119, versions 2 to 4), from a note of the paper: no code was read. Features:
mean of the visual tokens after a shallow layer of the target's language model (which one, the paper leaves
open). Needs: embedding_shallow_visual. Cost class: C2, of a model cut after that layer. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, numbers, one_of
from curation.selectors.primitives.candidates import by_hash, find_candidates
from curation.selectors.primitives.cosine import unit
from curation.selectors.primitives.raw import RawVectors, raw
from curation.selectors.signal_columns import columns_read

_BLOCK = 1 << 13
_MEAN_GRID = 2.0**28
"""Steps in 1 of the mean direction: its products with unit vectors (steps of 2^-24) are exact in float64."""


def reads(vectors: str = "emb_shallow_visual", **_: object) -> tuple[str, ...]:
    """The vectors."""
    return columns_read(vectors)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    vectors: str = "emb_shallow_visual",
    correlation: str = "centred",
    text_only: str | None = "all",
) -> Selection:
    """The rows of lowest redundancy R_i = (u_i · sum of all u - 1) / (N - 1), the mean cosine to others.

    u_i is the vector minus the mean of all N, scaled to length 1: O(N d), no pairs. `correlation`: "centred"
    (this), or "pearson" (version 1 of the paper): the vector minus the mean of its own entries, so that R_i
    is the mean Pearson correlation with the others; picks overlap by 0.32 (Jaccard) on the frozen table of
    tests/parity. Ties by the hash of (seed, id).

    Rows without image are not compared; `text_only`: "all" (published) keeps every one of them, within the
    budget, before any other row (those beyond it: note `text_only_dropped`), "keep" gives them their share at
    random, "exclude" leaves them out, None takes them for rows like others, if they have a vector. Rows
    without vector cannot be picked (`missing_value`). Reason: score, which is R. Raises ColumnError,
    BudgetError, SelectorError.
    """
    one_of("correlation", correlation, ("centred", "pearson"))
    points, known = raw(columns, vectors)
    if text_only == "all":
        imageless, kept = _without_image(columns, budget, seed)
        candidates = find_candidates(
            columns, budget, seed, known & ~imageless, preselected={"text_only": kept}
        )
        dropped = int((imageless & ~kept).sum())
        missing = candidates.notes["missing_value"] - dropped
        notes = {"missing_value": missing, "text_only_dropped": dropped}
    else:
        candidates = find_candidates(columns, budget, seed, known, text_only=text_only)
        notes = {}
    similar = _redundancy(points, candidates.rows, correlation)
    places = np.argsort(similar, kind="stable")[: candidates.budget]
    return candidates.selection(columns, places, notes, score=similar[places])


def _without_image(columns: pa.Table, budget: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows without image bool[n]; of these, the first `budget` by the hash, bool[n])."""
    imageless = numbers(columns, "n_images") == 0
    order, _ = by_hash(columns, seed)
    kept = np.zeros(len(order), bool)
    kept[order[imageless[order]][: max(budget, 0)]] = True
    return imageless, kept


def _redundancy(points: RawVectors, rows: np.ndarray, correlation: str) -> np.ndarray:
    """float64[n]: mean cosine of each centred vector to the others; 0 for a single row."""
    n, blocks = len(rows), [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    if n < 2:
        return np.zeros(n)
    # sums of whole numbers, and of multiples of 2^-24, are exact: the order of the rows does not matter
    mean = sum(points(block).sum(axis=0) for block in blocks) / n if correlation == "centred" else None
    total = sum(_units(points(block), mean).sum(axis=0) for block in blocks)
    direction = np.rint(total / n * _MEAN_GRID) / _MEAN_GRID
    cosine = np.concatenate([_units(points(block), mean) @ direction for block in blocks])
    return (n * cosine - 1.0) / (n - 1)


def _units(values: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
    """Unit vectors on the grid: the values less `mean`, or less the mean of each row's own entries."""
    return unit(values - (values.mean(axis=1, keepdims=True) if mean is None else mean))


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C2",
    nested=lambda text_only="all", **_: text_only not in ("all", "keep"),
    published=Published(
        "lowest mean cosine to all others of visual features less their mean; rows without image all kept",
        "arXiv 2502.12119, from a note (no code read)",
        {"published": {}, "version 1": {"correlation": "pearson"}},
        {"version 1": "Pearson correlation over the entries, in place of the pool's mean taken off"},
    ),
)
