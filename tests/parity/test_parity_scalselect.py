"""ScalSelect: the highest leverage first; rows without image are no candidates."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Leverages with ties; every tenth row has no image."""
    imageless = np.arange(rows) % 10 == 4
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            "n_images": pa.array((~imageless).astype(np.int32)),
            "leverage": pa.array(rng.integers(0, 40, rows) / 64, pa.float32(), mask=imageless),
        }
    )


def oracle(rows, budget, params):
    """The rows with images, by leverage."""
    images = [row for row in rows if row["n_images"]]
    ranked = sorted(images, key=lambda row: (-row["leverage"], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method(
    "scalselect", make, oracle, available=lambda table: len(table) - table["leverage"].null_count + 1
)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
