"""What tests of selectors share: small tables with many ties, several styles a row and missing values."""

import hashlib

import numpy as np
import pyarrow as pa

CAPABILITIES = ("spatial", "ocr", "logic")
STYLE_NAMES = ("yes_no", "word", "multi_choice", "other")

CASES = [
    ("all", {}),
    ("random", {}),
    ("random_balanced", {}),
    ("top_k", {"column": "nll"}),
    ("top_k", {"column": "cap_ocr", "order": "ascending"}),
    ("mllm_selector", {}),
    ("mllm_selector", {"tau": 0.1, "strata": 3}),
    ("mllm_selector", {"tau": float("inf")}),
    *(("mmssr", {"bins": bins}) for bins in ("none", "source", "style", "style_x_source")),
    ("mmssr", {"score": "expected", "order": "scarce_first"}),
    ("mmssr", {"threshold": 4, "fill": "random"}),
    ("mmssr", {"capabilities": ["ocr", "spatial"], "fill": "none"}),
]
"""Every selector with parameters that take different paths through it."""


def random_table(seed: int, n: int, missing: float = 0.1) -> pa.Table:
    """row, id, source and every signal column, n rows; `missing` is the share of absent values."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {
        "row": pa.array(np.arange(n), pa.int32()),
        "id": pa.array([f"s{i:03d}é" for i in rng.permutation(n)]),
        "source": pa.array([f"src{int(x)}" for x in rng.geometric(0.5, n)]),
        "styles": pa.array([_styles(rng, missing) for _ in range(n)], pa.list_(pa.string())),
        "nll": pa.array(np.round(rng.gamma(2.0, 1.0, n), 1), mask=rng.random(n) < missing),
    }
    for key in CAPABILITIES:
        level = rng.choice(6, n, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
        gone = rng.random(n) < missing
        columns[f"cap_{key}"] = pa.array(level.astype(np.int8), mask=gone)
        expected = np.clip(level + rng.choice([-0.25, 0.0, 0.25], n), 0, 5).astype(np.float32)
        columns[f"exp_{key}"] = pa.array(expected, mask=gone | (rng.random(n) < missing))
    return pa.table(columns)


def _styles(rng: np.random.Generator, missing: float) -> list[str] | None:
    if rng.random() < missing:
        return None if rng.random() < 0.5 else []
    return [STYLE_NAMES[i] for i in rng.integers(0, len(STYLE_NAMES), rng.integers(1, 4))]


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    """The same rows in another order."""
    return table.take(np.random.default_rng(seed).permutation(len(table)))


MASK = (1 << 64) - 1


def plain_key(seed: int, name: str) -> int:
    """`seeded_keys` for one name, in plain integers."""

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    data = name.encode()
    total = (sum(mix(at << 8 | byte) for at, byte in enumerate(data)) + len(data)) & MASK
    return mix(mix(total) ^ int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little"))
