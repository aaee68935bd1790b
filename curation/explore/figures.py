"""Counts of the whole pool that the page draws: by source and by score, picked and dropped."""

from typing import Any

import numpy as np
import pyarrow as pa

BINS = 20
_DISTINCT = 12
"""A column with at most so many different whole numbers has a bar for each."""
_TAIL = 0.005


def by_source(codes: np.ndarray, names: list[str], picked: np.ndarray) -> list[dict[str, Any]]:
    """name, picked, dropped of each source, in the order of `names`; codes: int[n], places in `names`."""
    chosen = np.bincount(codes[picked], minlength=len(names))
    all_of = np.bincount(codes, minlength=len(names))
    return [
        {"name": name, "picked": int(own), "dropped": int(total - own)}
        for name, own, total in zip(names, chosen, all_of, strict=True)
    ]


def histogram(values: np.ndarray, picked: np.ndarray) -> dict[str, Any]:
    """Counts of the values, float64[n], of picked and of dropped rows; `missing`: those that are not finite.

    `values`: the few whole numbers that occur, each with its counts; or `edges`: the `BINS` + 1 edges of bins
    of one width, from which the first and the last also hold the 0.5 % beyond them.
    """
    known = np.isfinite(values)
    told: dict[str, Any] = {"missing": int(len(values) - np.count_nonzero(known))}
    values, picked = values[known], picked[known]
    if not len(values):
        return told | {"values": [], "picked": [], "dropped": []}
    distinct = np.unique(values)
    if len(distinct) <= _DISTINCT and (distinct == np.rint(distinct)).all():
        places, told["values"] = np.searchsorted(distinct, values), distinct.tolist()
        bars = len(distinct)
    else:
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
        if low == high:
            low, high = values.min(), values.max()
        edges = np.linspace(low, high, BINS + 1)
        places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BINS - 1)
        told["edges"] = [rounded(edge) for edge in edges]
        bars = BINS
    return told | {
        "picked": np.bincount(places[picked], minlength=bars).tolist(),
        "dropped": np.bincount(places[~picked], minlength=bars).tolist(),
    }


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type can be filtered by a range."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64[n] of such a column, NaN where it is null."""
    return column.cast(pa.float64(), safe=False).to_numpy()


def rounded(value: float) -> float | None:
    """The number to five digits; None if it is not finite."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
