"""SEED: the highest influence in a subspace of the gradients, without near neighbours of rows already taken.

Source: arXiv 2605.15691, released code: influence as in LESS, but over those channels of the projected
gradients whose mean size exceeds the average channel's both over the pool and over the target's items; a
graph of the 20 nearest neighbours by cosine of the mean gradient over checkpoints, with an edge where the
cosine is at least max(0.7, 0.95 · that of the 20th); then the greedy heaviest independent set. Needs:
gradient_masked (masked_influence_<task>, adam_mean_grad). Cost class: C5. Targeted: it sees validation data
of the tasks.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, SelectorError, numbers
from curation.selectors.icons import influences
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.graph import Graph, members_of
from curation.selectors.primitives.near import nearest_above
from curation.selectors.signal_columns import columns_read

PREFIX = "masked_influence_"


def reads(vectors: str = "adam_mean_grad", within: str | None = None, **_: object) -> tuple[str, ...]:
    """The gradients that are compared, and the clusters that bound the comparison."""
    return columns_read(vectors, within and f"cluster_{within}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    tasks: list[str] | None = None,
    neighbours: int = 20,
    least: float = 0.7,
    local: float = 0.95,
    vectors: str = "adam_mean_grad",
    within: str | None = None,
) -> Selection:
    """The heaviest rows first, each of which bars those that an edge joins to it.

    A row's weight is its highest masked_influence_<task> (`tasks`: which, default all such columns; the
    released code selects for one task at a time, the maximum is a reading of ours, as in LESS). Two rows are
    joined if one is among the `neighbours` nearest of the other and their cosine is at least max(`least`,
    `local` · that one's cosine to its farthest neighbour). Ties by the hash of (seed, id). Where fewer rows
    than the budget are left, the barred ones follow, heaviest first (`filled`: how many); the released code
    returns fewer. `within` compares inside cluster_<within> only, needed above 100,000 rows. Text-only rows
    are treated like all others. Rows without influence, vector or cluster cannot be picked
    (`missing_value`). Reason: task, score (its influence), filled. Raises ColumnError, BudgetError,
    SizeError, SelectorError.
    """
    if neighbours < 1 or not (0 <= least <= 1 and 0 <= local <= 1):
        raise SelectorError(
            "neighbours must be at least 1, least and local from 0 to 1, "
            f"got neighbours={neighbours}, least={least}, local={local}"
        )
    names, values = influences(columns, tasks, PREFIX)
    units, known = joined(columns, vectors)
    usable = known & np.isfinite(values).all(axis=0)
    clusters = numbers(columns, f"cluster_{within}") if within else np.zeros(len(columns))
    candidates = find_candidates(columns, budget, seed, usable & np.isfinite(clusters))
    inside = values[:, candidates.rows]
    weight = inside.max(axis=0)
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    codes = codes.reshape(-1)  # numpy 2.0 returns another shape than other versions
    graph = nearest_above(candidates.rows, units, neighbours, least, codes)
    order, independent = heaviest_first(weight, *joined_rows(graph, codes, local))
    places = order[: candidates.budget]
    best = inside[:, places].argmax(axis=0)
    filled = np.arange(len(places)) >= independent
    return candidates.selection(
        columns,
        places,
        {"filled": int(filled.sum())},
        task=pa.array(names).take(pa.array(best)),
        score=inside[best, places],
        filled=filled,
    )


def joined_rows(graph: Graph, codes: np.ndarray, local: float) -> tuple[np.ndarray, np.ndarray]:
    """The edges as (starts int64[n + 1], ends int64[m]): those of row i are ends[starts[i]:starts[i + 1]].

    graph: neighbours with a cosine of at least `least` only. Where a row has fewer such than neighbours in
    its group (codes int64[n]), its farthest neighbour's cosine is below `least`, which is then the bound.
    """
    n, k = graph.neighbours.shape
    held = graph.neighbours >= 0
    others = np.empty(n, np.int64)
    for members in members_of(codes):
        others[members] = min(k, len(members) - 1)
    count = held.sum(axis=1)
    bound = np.zeros(n)
    full = (count >= others) & (others > 0)
    bound[full] = local * graph.cosine[full, others[full] - 1]
    start, place = np.nonzero(held & (graph.cosine >= bound[:, None]))
    end = graph.neighbours[start, place]
    both, ends = np.concatenate([start, end]), np.concatenate([end, start])
    order = np.argsort(both, kind="stable")
    return np.searchsorted(both[order], np.arange(n + 1)), ends[order]


def heaviest_first(weight: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, int]:
    """(all places int64[n], how many of the first are independent): greedy picks, then the barred rows.

    Each in the order of `weight` float64[n], highest first, ties by place.
    """
    ranked = np.argsort(-weight, kind="stable")
    barred = np.zeros(len(weight), bool)
    for place in ranked.tolist():
        if not barred[place]:
            barred[ends[starts[place] : starts[place + 1]]] = True
    return np.concatenate([ranked[~barred[ranked]], ranked[barred[ranked]]]), int((~barred).sum())


SELECTOR = Selector(
    select,
    needs=("gradient_masked",),
    reads=reads,
    cost="C5",
    targeted=True,
    nested=True,
    published=Published(
        "greedy heaviest independent set of a local nearest-neighbour graph, by masked influence",
        "arXiv 2605.15691, released code; what is short of the budget is filled",
    ),
)
