"""LESS: the highest influence on a task, of gradients as directions of Adam's update."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

WIDTH, SCALE, STEP = 8, 1e-4, 20
"""Weights; size of their gradients, as small as those of LoRA weights may be; steps of the warm-up."""
TASKS = {"bbh": 2, "mmlu": 3, "vqa": 1}
"""Task -> number of its subtasks."""


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Influences of the released direction (adam_) and of Adam's own update (clean_adam_)."""
    sizes = SCALE * rng.gamma(0.5, 2.0, WIDTH)  # weights differ in the size of their gradients
    gradients = rng.normal(0, 1, (rows, WIDTH)) * sizes
    first = 0.9 * 0.3 * sizes * rng.normal(0, 1, WIDTH) + 0.1 * gradients
    second = 0.999 * (1 - 0.999**STEP) * sizes**2 + 0.001 * gradients**2
    corrected = first / (1 - 0.9 ** (STEP + 1)), second / (1 - 0.999 ** (STEP + 1))
    directions = {
        "adam_": first / np.sqrt(second + 1e-8),
        "clean_adam_": corrected[0] / (np.sqrt(corrected[1]) + 1e-8),
    }
    validation = {task: unit(rng.normal(0, 1, (n, 3, WIDTH)) * sizes) for task, n in TASKS.items()}
    columns = {
        f"{prefix}influence_{task}": pa.array(
            np.max([(unit(rows_) @ v.T).mean(axis=1) for v in vectors], axis=0), pa.float32()
        )
        for prefix, rows_ in directions.items()
        for task, vectors in validation.items()
    }
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            **columns,
        }
    )


def oracle(rows, budget, params):
    """The highest influence on any task first."""
    ranked = sorted(rows, key=lambda row: (-max(row[f"adam_influence_{task}"] for task in TASKS), row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("less", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)
