"""Self-supervised prototypes: the rows farthest from the centroid of their cluster, or the nearest.

Source: Sorscher et al. (arXiv 2206.14486): k-means in an embedding; difficulty is the distance to the nearest
centroid; where data are plenty the hardest are kept, where they are scarce the easiest. Which end the tables
of VLM papers take is not clear from them: a parameter. Needs: cluster_self_sup. Cost class: C2. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded, one_of
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept
from curation.selectors.signal_columns import columns_read

ENDS = {"hard": "bottom", "easy": "top"}
"""What is kept -> the end of the similarity to the centroid."""


def reads(cluster: str = "self_sup", **_: object) -> tuple[str, ...]:
    """The similarity of each row to the centroid of its cluster."""
    return columns_read(f"similarity_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    cluster: str = "self_sup",
    keep: str = "hard",
    text_only: str | None = None,
) -> Selection:
    """The `budget` rows with the lowest (`keep="hard"`) or highest ("easy") similarity_<cluster>.

    A cosine: for unit vectors and centroids it falls as the distance grows. Up to half of the rows the two
    ends have none in common (Jaccard 0.00 on the frozen table of tests/parity). Ties by the hash of (seed,
    id). Text-only rows: None (treated like all others), "exclude" or "keep" (their share at random). Rows
    without a value (`missing_value`) or with one outside -1 .. 1 (`out_of_range`) cannot be picked. Raises
    ColumnError, BudgetError, SelectorError.
    """
    one_of("keep", keep, tuple(ENDS))
    values, outside = bounded(columns, f"similarity_{cluster}", low=-1.001, high=1.001)
    candidates = find_candidates(
        columns, budget, seed, np.isfinite(values), outside=outside, text_only=text_only
    )
    places = band(values[candidates.rows], candidates.budget, ENDS[keep])
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


PUBLISHED = Published(
    rule="k-means in a self-supervised embedding; the rows farthest from their centroid",
    source="arXiv 2206.14486, for plentiful data",
    variants={"published": {}, "easy": {"keep": "easy"}},
    differs={"easy": "the nearest to their centroid, which the paper takes where data are scarce"},
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=nested_unless_kept, published=PUBLISHED)
