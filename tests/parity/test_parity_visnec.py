"""VisNec: the rows of each cluster whose answer the image helps most, text-only rows among them."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

CLUSTERS = 6


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Losses on a coarse grid, so that there are ties; one row in five is text-only, its two losses equal."""
    images = rng.random(rows) < 0.8
    without = rng.integers(4, 40, rows)
    given = np.where(images, without + rng.integers(-12, 4, rows), without)
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array(images, pa.int32()),
            "base_nll": pa.array(given / 8.0, pa.float32()),
            "base_nll_noimg": pa.array(without / 8.0, pa.float32()),
            "cluster_visnec": pa.array(
                np.minimum(rng.geometric(0.3, rows), CLUSTERS).astype(np.int32) - 1, pa.int32()
            ),
        }
    )


def numbers(sizes: dict[int, int], budget: int) -> dict[int, int]:
    """Each cluster's share rounded down, at least one; then to the sum `budget`, as the docstring says."""
    total = sum(sizes.values())
    counts = {c: max(size * budget // total, 1) for c, size in sizes.items()}
    rounded = sorted(
        (c for c in sizes if sizes[c] * budget // total >= 1), key=lambda c: (-(sizes[c] * budget % total), c)
    )
    for c in [*rounded, *sorted(set(sizes) - set(rounded))]:
        counts[c] += sum(counts.values()) < budget
    while sum(counts.values()) > budget:
        most = [c for c in counts if counts[c] == max(counts.values())]
        counts[min(most, key=lambda c: (sizes[c], -c))] -= 1
    return counts


def oracle(rows, budget, params):
    """The highest L(A|Q) - L(A|I,Q) of each cluster."""
    sizes = {}
    for row in rows:
        sizes[row["cluster_visnec"]] = sizes.get(row["cluster_visnec"], 0) + 1
    counts = numbers(dict(sorted(sizes.items())), budget)
    picks = []
    for cluster, count in counts.items():
        members = [row for row in rows if row["cluster_visnec"] == cluster]
        members.sort(key=lambda row: (row["base_nll"] - row["base_nll_noimg"], row["key"]))
        picks += [row["row"] for row in members[:count]]
    return picks


METHOD = Method("visnec", make, oracle, ordered=False)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
