"""ICONS: each task votes for the rows at or above a percentile of its influence; the most votes win."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified

TASKS = {"mme": 2, "ocr": 1, "vqa": 1}
"""Task -> number of its subtasks."""
WIDTH = 6


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Influences of unit gradients, with validation gradients of unit and of other lengths."""
    gradients = unit(rng.normal(0, 1, (rows, WIDTH)))
    columns = {}
    for task, subtasks in TASKS.items():
        validation = unit(rng.normal(0, 1, (subtasks, 4, WIDTH))) * rng.gamma(1.0, 1.0, (subtasks, 4, 1))
        for prefix, vectors in (("", unit(validation)), ("raw_", validation)):
            influence = np.max([(gradients @ v.T).mean(axis=1) for v in vectors], axis=0)
            columns[f"{prefix}influence_{task}"] = pa.array(np.round(influence, 2), pa.float32())
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            **columns,
        }
    )


def percentile(values: list[float], share: Fraction) -> Fraction:
    """The (1 - share)-quantile, interpolated between the two nearest values."""
    place = (len(values) - 1) * (1 - share)
    below, above = sorted(values)[math.floor(place)], sorted(values)[math.ceil(place)]
    return Fraction(below) + (Fraction(above) - Fraction(below)) * (place - math.floor(place))


def oracle(rows, budget, params):
    """The most votes; the validation gradients of MME alone keep their length."""
    share = Fraction(params["percent"], 100) if "percent" in params else Fraction(budget, len(rows))
    votes = {row["row"]: 0 for row in rows}
    for column in ("raw_influence_mme", "influence_ocr", "influence_vqa"):
        least = percentile([row[column] for row in rows], share)
        for row in rows:
            votes[row["row"]] += Fraction(row[column]) >= least
    ranked = sorted(rows, key=lambda row: (-votes[row["row"]], row["key"]))
    return [row["row"] for row in ranked[:budget]]


METHOD = Method("icons", make, oracle)


def test_frozen():
    check_frozen(METHOD)


def test_random():
    check_random(METHOD)


def test_random_with_a_percentile_of_its_own():
    check_random(Method("icons", make, oracle, {"percent": 30}, sizes=(8, 30)))
