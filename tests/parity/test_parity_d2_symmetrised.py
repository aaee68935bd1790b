"""D2 pruning as the authors run it in memory: edges hold both ways, distances are not squared."""

import math

from parity import Method, check_frozen, check_random
from test_parity_d2 import LEAST, make, squared


def oracle(rows, budget, params):
    """Repeatedly the highest density, among equal ones the lowest key."""
    rows = sorted(rows, key=lambda row: row["key"])
    n = len(rows)
    margin = [row["base_margin"] for row in rows]
    apart = [[math.sqrt(squared(a["emb_token_mean"], b["emb_token_mean"])) for b in rows] for a in rows]
    own = [set(sorted((j for j in range(n) if j != i), key=lambda j: (apart[i][j], j))[:5]) for i in range(n)]
    near = [[j for j in range(n) if j in own[i] or i in own[j]] for i in range(n)]
    left = [
        margin[i] + sum(math.exp(-apart[i][j]) * max(margin[j], LEAST) for j in near[i]) for i in range(n)
    ]
    picks: list[int] = []
    while len(picks) < budget:
        at = max((i for i in range(n) if i not in picks), key=lambda i: (left[i], -i))
        picks.append(at)
        for j in near[at]:
            left[j] -= math.exp(-0.4 * apart[at][j]) * left[at] if j not in picks else 0.0
    return [rows[i]["row"] for i in picks]


METHOD = Method(
    "d2_symmetrised", make, oracle, {"edges": "symmetrised", "distance": "euclidean"}, selector="d2"
)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
