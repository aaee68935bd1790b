"""Building blocks that selectors share. Each name can be imported from here or from its own module.

Selectors import from the modules (`primitives.keys`), so that a cached selection is invalidated only by code
that it uses.
"""

from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import Candidates, by_hash, find_candidates
from curation.selectors.primitives.cosine import cosines, joined, lookup, unit
from curation.selectors.primitives.distance import nearest_points, on_grid
from curation.selectors.primitives.farthest import farthest_point
from curation.selectors.primitives.graph import Edges, Graph, edges_of, nearest
from curation.selectors.primitives.greedy import greedy_penalty, greedy_similarity
from curation.selectors.primitives.keys import groups, rank_within, seeded_keys
from curation.selectors.primitives.pick import RULES, pick_by_group, rule
from curation.selectors.primitives.quota import apportion, quota, quota_by_group, spread
from curation.selectors.primitives.vote import rank_sums, votes

__all__ = [
    "RULES",
    "Candidates",
    "Edges",
    "Graph",
    "apportion",
    "band",
    "by_hash",
    "cosines",
    "edges_of",
    "farthest_point",
    "find_candidates",
    "greedy_penalty",
    "greedy_similarity",
    "groups",
    "joined",
    "lookup",
    "nearest",
    "nearest_points",
    "on_grid",
    "pick_by_group",
    "quota",
    "quota_by_group",
    "rank_sums",
    "rank_within",
    "rule",
    "seeded_keys",
    "spread",
    "unit",
    "votes",
]
