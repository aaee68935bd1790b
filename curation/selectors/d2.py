"""D2 pruning: difficulty spread over a nearest-neighbour graph, then picks that down-weight their neighbours.

Source: Maharana et al. (arXiv 2310.07931). Forward: density_i = s_i + sum over neighbours j of exp(-d_ij) ·
s_j. Reverse: repeatedly the highest density; it subtracts exp(-gamma · d_ij) · density_i from its neighbours.
Needs: the signals of the difficulty (base_losses) and of the vectors (embedding). Cost class: C2. Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, bounded, numbers, one_of
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import exp, joined
from curation.selectors.primitives.graph import gather, nearest
from curation.selectors.primitives.greedy import greedy_penalty
from curation.selectors.signal_columns import columns_read, names_of

VECTORS = ("emb_image", "emb_text")


def reads(
    column: str = "base_el2n", vectors: str | Sequence[str] = VECTORS, within: str | None = None, **_: object
) -> tuple[str, ...]:
    """The difficulty, the vectors and, where used, the clusters."""
    return columns_read(column, *names_of(vectors), f"cluster_{within}" if within else None)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    column: str = "base_el2n",
    vectors: str | Sequence[str] = VECTORS,
    neighbours: int = 5,
    gamma: float = 0.4,
    mode: str = "sum",
    within: str | None = None,
    text_only: str | None = "keep",
) -> Selection:
    """Rows by density, each pick lowering that of its `neighbours` nearest; ties by the hash of (seed, id).

    `column`: difficulty, not below 0. `vectors`: one vector column, or several joined; d_ij is the Euclidean
    distance of the unit vectors. `mode`: "sum" as above, or "product": s_i · sum of exp(-d_ij) · s_j. The
    graph is computed once (exact, rows squared); `within` restricts it to cluster_<within>, for large pools.
    Text-only rows: "keep" (default) gives them their share of the budget at random, "exclude" leaves them
    out; with text vectors only, pass `text_only=None` to treat them like all others. Rows without difficulty,
    vector or cluster cannot be picked (`missing_value`), nor those with a difficulty below 0
    (`out_of_range`). Reason: score (difficulty), density (after the forward pass). Raises ColumnError,
    BudgetError, SizeError, SelectorError.
    """
    _check(neighbours, gamma, mode)
    score, outside = bounded(columns, column, low=0)
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{within}") if within else np.zeros(len(columns))
    usable = np.isfinite(score) & known & np.isfinite(clusters)
    candidates = find_candidates(columns, budget, seed, usable, outside=outside, text_only=text_only)
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    graph = nearest(candidates.rows, units, neighbours, codes)
    inside, distance = score[candidates.rows], graph.distance
    messages = gather(inside, graph, exp(-distance))
    density = inside * messages if mode == "product" else inside + messages
    places = greedy_penalty(density, graph.neighbours, exp(-gamma * distance), candidates.budget)
    return candidates.selection(columns, places, score=inside[places], density=density[places])


def _check(neighbours: int, gamma: float, mode: str) -> None:
    one_of("mode", mode, ("sum", "product"))
    if neighbours < 1 or not gamma >= 0:
        raise SelectorError(
            f"neighbours must be at least 1, gamma at least 0, got neighbours={neighbours}, gamma={gamma}"
        )


SELECTOR = Selector(select, reads=reads, cost="C2")
