"""mmSSR as released, its sorts made stable and its sets ordered."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

CAPABILITIES = ("ocr", "logic", "spatial")
STYLES = ("word", "yes_no", "multi_choice", "comparison")


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Scores 0 to 5, mostly low, at least one of each row above 0; one to three styles each."""
    scores = rng.choice(6, (len(CAPABILITIES), rows), p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    scores[rng.integers(0, len(CAPABILITIES), rows), np.arange(rows)] += 1
    names = {
        f"cap_{name}": pa.array(np.minimum(of, 5), pa.int8())
        for name, of in zip(CAPABILITIES, scores, strict=True)
    }
    styles = [[STYLES[at] for at in rng.permutation(len(STYLES))[: rng.integers(1, 4)]] for _ in range(rows)]
    return pa.table(
        {
            **identified(rng, rows),
            "source": [f"source_{number}" for number in rng.geometric(0.5, rows)],
            "styles": pa.array(styles, pa.list_(pa.string())),
            **names,
        }
    )


def oracle(rows, budget, params):
    """What the released loop takes, cut to the budget."""
    pool, live, taken = sorted(rows, key=lambda row: row["row"]), list(CAPABILITIES), []
    while len(taken) < budget and live:
        share, empty = max((budget - len(taken)) // len(live), 1), []
        for name in live:
            if len(taken) >= budget:
                break
            share = min(share, budget - len(taken))
            picks = one_capability(pool, name, share)
            pool = [row for row in pool if row["row"] not in picks]
            taken += picks
            if not picks:
                empty.append(name)
        live = [name for name in live if name not in empty]
    return taken[:budget]


def one_capability(pool, name, share):
    """The rows that one capability claims: bins of style and source, smallest first."""
    ranked = [row for row in sorted(pool, key=lambda row: -row[f"cap_{name}"]) if row[f"cap_{name}"] > 0]
    bins = {}
    for place in range(max((len(row["styles"]) for row in ranked), default=0)):
        for row in ranked:
            if place < len(row["styles"]):
                bins.setdefault(row["styles"][place] + "+" + row["source"], []).append(row["row"])
    picks, debt = [], 0
    quota = max(share // len(bins), 1) if bins else 0
    for label in sorted(bins, key=lambda label: (len(bins[label]), label)):
        if len(picks) >= share:
            break
        left = [row for row in bins[label] if row not in picks]
        picks += left[: quota + debt]
        debt = max(quota + debt - len(left), 0)
    return picks


METHOD = Method("mmssr_official", make, oracle, {"capabilities": list(CAPABILITIES)})


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
