"""mmSSR, the rules of the paper: equal shares for capabilities, then for bins, the best of each bin first.

The paper leaves ties and remainders open. Here a share is dealt to the bins smallest first, each getting its
part of what is left, rounded up; equal scores are told apart by the expected score, then by the key.
"""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

CAPABILITIES = ("ocr", "logic", "spatial")
STYLES = ("word", "yes_no", "multi_choice", "comparison")


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Scores 0 to 5 and expected scores near them; some rows have no style, some no capability above 0."""
    columns = {}
    for name in CAPABILITIES:
        level = rng.choice(6, rows, p=[0.55, 0.1, 0.1, 0.1, 0.1, 0.05])
        columns[f"cap_{name}"] = pa.array(level, pa.int8())
        columns[f"exp_{name}"] = pa.array(
            np.clip(level + rng.choice([-0.25, 0, 0.25], rows), 0, 5), pa.float32()
        )
    styles = [[STYLES[at] for at in rng.permutation(len(STYLES))[: rng.integers(0, 4)]] for _ in range(rows)]
    return pa.table(
        {
            **identified(rng, rows),
            "source": [f"source_{number}" for number in rng.geometric(0.5, rows)],
            "styles": pa.array(styles, pa.list_(pa.string())),
            **columns,
        }
    )


def oracle(rows, budget, params):
    """Rounds over capabilities; where all are exhausted, the rows with the highest expected score."""
    pool, live, taken = list(rows), list(CAPABILITIES), []
    while len(taken) < budget and live:
        share = max((budget - len(taken)) // len(live), 1)
        for name in list(live):
            if len(taken) == budget:
                break
            picks = one_capability(pool, name, min(share, budget - len(taken)))
            pool = [row for row in pool if row["row"] not in picks]
            taken += picks
            if not picks:
                live.remove(name)
    rest = sorted(pool, key=lambda row: (-max(row[f"exp_{name}"] for name in CAPABILITIES), row["key"]))
    return taken + [row["row"] for row in rest[: budget - len(taken)]]


def one_capability(pool, name, share):
    """Up to `share` rows, dealt to the bins of style and source."""
    wanted = [row for row in pool if row[f"cap_{name}"] > 0]
    wanted.sort(key=lambda row: (-row[f"cap_{name}"], -row[f"exp_{name}"], row["key"]))
    bins = {}
    for row in wanted:
        for style in row["styles"] or ["other"]:
            bins.setdefault((style, row["source"]), []).append(row["row"])
    picks, order = [], sorted(bins, key=lambda label: (len(bins[label]), label))
    for place, label in enumerate(order):
        part = -(-(share - len(picks)) // (len(order) - place))
        picks += [row for row in bins[label] if row not in picks][:part]
    return picks


METHOD = Method("mmssr", make, oracle, {"capabilities": list(CAPABILITIES)})


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
