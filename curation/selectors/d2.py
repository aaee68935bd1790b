"""D2 pruning: difficulty spread over a nearest-neighbour graph, then picks that down-weight their neighbours.

Source: Maharana et al. (arXiv 2310.07931). Forward: density_i = s_i + sum over neighbours j of exp(-d_ij) ·
s_j. Reverse: repeatedly the highest density; it subtracts exp(-gamma · d_ij) · density_i from its neighbours.
The released code has two forms: a graph of each row's own k neighbours, computed beforehand, and, for small
sets, an all-pairs matrix in memory whose edges hold both ways. The published figures for vision-language
models come from the first (COINCIDE's baseline, code read): s is the margin (AUM) of the answer, high for
easy rows; d is the squared Euclidean distance of last-layer means as they are; no s is taken below 1e-7. So
`published` is that one, and `edges="symmetrised"` is the other. Needs: the signals of the difficulty
(base_losses) and of the vectors (embedding_token_mean). Cost class: C2. Blind.

The variant "clean" reads EL2N, high for hard rows, and the Euclidean distance of unit vectors, in which
exp(-d) does not vanish for states of large norm. On the frozen tables of tests/parity its picks and the
published ones have Jaccard 0.08, with symmetrised edges Jaccard 0.12. The released code looks its neighbours
up in a compressed index (IVF-PQ) and visits lowered rows in an order that only approximates the highest
density first; both are done in full here.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    SelectorError,
    bounded,
    numbers,
    one_of,
)
from curation.selectors.primitives.candidates import find_candidates, nested_unless_kept
from curation.selectors.primitives.cosine import exp, joined
from curation.selectors.primitives.distance import nearest_points, on_grid
from curation.selectors.primitives.graph import Edges, edges_of, nearest
from curation.selectors.primitives.greedy import greedy_penalty
from curation.selectors.signal_columns import columns_read, names_of

VECTORS = ("emb_token_mean",)
VARIANTS = {"published": ("base_margin", "squared"), "clean": ("base_el2n", "unit")}
"""The difficulty and the distance of each variant."""
LEAST = 1e-7
"""Difficulties below count as this much in the variant "published" (as in the released code)."""


def reads(
    variant: str = "published",
    column: str | None = None,
    vectors: str | Sequence[str] = VECTORS,
    within: str | None = None,
    **_: object,
) -> tuple[str, ...]:
    """The difficulty, the vectors and, where used, the clusters."""
    one_of("variant", variant, tuple(VARIANTS))
    difficulty = column or VARIANTS[variant][0]
    return columns_read(difficulty, *names_of(vectors), f"cluster_{within}" if within else None)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    column: str | None = None,
    vectors: str | Sequence[str] = VECTORS,
    neighbours: int = 5,
    gamma: float = 0.4,
    mode: str = "sum",
    edges: str = "directed",
    distance: str | None = None,
    within: str | None = None,
    text_only: str | None = None,
) -> Selection:
    """Rows by density, each pick lowering that of its `neighbours` nearest; ties by the hash of (seed, id).

    `column`: difficulty (default: base_margin, in "clean" base_el2n). `vectors`: one vector column, or
    several joined. `distance`: "squared" (default) Euclidean distance of the vectors as they are,
    "euclidean", its root, or "unit" (default of "clean"), that of the unit vectors. `mode`: "sum" as above,
    or "product": s_i · sum of exp(-d_ij) · s_j. `edges`: "directed", to a row's own neighbours, or
    "symmetrised", to those that have it as a neighbour too. In "published" a difficulty below 1e-7 counts as
    1e-7 (with symmetrised edges only as a neighbour's, as released), and a pick of negative density raises
    its neighbours; in "clean" it leaves them, and rows with a difficulty below 0 cannot be picked
    (`out_of_range`). The graph is computed once (all pairs, rows squared); `within` restricts it to
    cluster_<within>, for pools of more than 100,000 rows. `text_only`: None (default) treats text-only rows
    like all others, "keep" gives them their share of the budget at random, "exclude" leaves them out. Rows
    without difficulty, vector or cluster cannot be picked (`missing_value`). Reason: score (difficulty),
    density (after the forward pass). Raises ColumnError, BudgetError, SizeError, SelectorError.
    """
    _check(variant, neighbours, gamma, mode, edges)
    published, (usual, metric) = variant == "published", VARIANTS[variant]
    metric = metric if distance is None else distance
    one_of("distance", metric, ("squared", "euclidean", "unit"))
    score, outside = bounded(columns, column or usual, low=-np.inf if published else 0.0)
    _, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{within}") if within else np.zeros(len(columns))
    usable = np.isfinite(score) & known & np.isfinite(clusters)
    candidates = find_candidates(columns, budget, seed, usable, outside=outside, text_only=text_only)
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    graph = _graph(columns, names_of(vectors), candidates.rows, neighbours, codes, metric)
    graph = graph.both_ways() if edges == "symmetrised" else graph
    inside = score[candidates.rows]
    heard = np.maximum(inside, LEAST) if published else inside
    own = inside if edges == "symmetrised" else heard
    messages = graph.gather(heard, exp(-graph.distance))
    density = own * messages if mode == "product" else own + messages
    weights = graph.by_row(exp(-gamma * graph.distance))
    places = greedy_penalty(density, graph.by_row(graph.to), weights, candidates.budget, signed=published)
    return candidates.selection(columns, places, score=inside[places], density=density[places])


def _graph(
    columns: pa.Table, names: Sequence[str], rows: np.ndarray, k: int, codes: np.ndarray, metric: str
) -> Edges:
    """The edges from each of `rows` to its k nearest."""
    if metric == "unit":
        near = nearest(rows, joined(columns, names)[0], k, codes)
        return edges_of(near.neighbours, near.distance)
    points, scale = on_grid(columns, names, rows)
    to, squared = nearest_points(rows, points, k, codes)
    apart = squared * (scale * scale)
    return edges_of(to, apart if metric == "squared" else np.sqrt(apart))


def _check(variant: str, neighbours: int, gamma: float, mode: str, edges: str) -> None:
    one_of("variant", variant, tuple(VARIANTS))
    one_of("mode", mode, ("sum", "product"))
    one_of("edges", edges, ("directed", "symmetrised"))
    if neighbours < 1 or not gamma >= 0:
        raise SelectorError(
            f"neighbours must be at least 1, gamma at least 0, got neighbours={neighbours}, gamma={gamma}"
        )


PUBLISHED = Published(
    rule="margin spread to the 5 nearest by exp(-d^2) (in memory: both ways, by exp(-d)); then the highest "
    "density, which lowers its neighbours by exp(-0.4 d^2) of it",
    source="arXiv 2310.07931, code executed; VLM baseline of COINCIDE (2406.10995), code read",
    variants={"published": {"variant": "published"}, "clean": {"variant": "clean"}},
    differs={"clean": "EL2N instead of the margin; unit vectors, distance not squared"},
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=nested_unless_kept, published=PUBLISHED)
