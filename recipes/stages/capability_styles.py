"""What a pool's samples ask for and how: their capability and their interaction styles together.

A sample counts under one capability: its own in the mini world, else the one with the highest score (of
equal ones the first in the taxonomy; `none` if all are 0). With k styles it counts 1/k under each, so the
shares of a subset add up to 1. Samples that were not rated are left out of the shares.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from recipes.stages.pool_results import PoolResults

KIND = "capability x style"
"""The kind of `evaluation.context.Subset.mix`; its names are "capability | style"."""
NONE = "none"


def names_by_row(pool: "PoolResults") -> list[list[str]]:
    """ "capability | style" for each style of each row: by the ground truth, else by the pool's signals.

    An empty list for a row without ratings; no rows at all where neither truth nor both signals are there.
    """
    if "truth" in pool.inputs:
        return _names(pool, _truth(pool))
    if "signal_capability" in pool.inputs and "signal_style" in pool.inputs:
        return _names(pool, _rated(pool))
    return []


def shares(names: Sequence[Sequence[str]], rows: Iterable[int]) -> dict[str, float]:
    """Share of the rated samples among `rows`, by name; they add up to 1. Empty if none is rated."""
    counts: dict[str, float] = {}
    rated = [names[row] for row in rows if names[row]]
    for own in rated:
        for name in own:
            counts[name] = counts.get(name, 0.0) + 1 / len(own)
    return {name: counts[name] / len(rated) for name in sorted(counts)}


def _names(pool: "PoolResults", known: dict[int, tuple[str, list[str]]]) -> list[list[str]]:
    unrated: tuple[str, list[str]] = ("", [])
    pairs = (known.get(row, unrated) for row in range(len(pool.data)))
    return [[f"{capability} | {style}" for style in styles] for capability, styles in pairs]


def _truth(pool: "PoolResults") -> dict[int, tuple[str, list[str]]]:
    """Row -> (capability, styles) as the mini world made the sample."""
    import pyarrow.parquet as pq

    path = pool.inputs["truth"] / "truth.parquet"
    table = pq.read_table(path, columns=["id", "capability", "styles"])
    made = {t["id"]: (t["capability"], t["styles"] or [NONE]) for t in table.to_pylist()}
    return {row: made[id] for row, id in enumerate(pool.data.table["id"].to_pylist())}


def _rated(pool: "PoolResults") -> dict[int, tuple[str, list[str]]]:
    """Row -> (capability of the highest score, styles) of the rows that both raters rated."""
    from curation.signals.core.table import read_signal

    capability = _highest(read_signal(pool.inputs["signal_capability"], pool.data.hash))
    table = read_signal(pool.inputs["signal_style"], pool.data.hash)
    styles = zip(table["row"].to_pylist(), table["styles"].to_pylist(), strict=True)
    return {
        row: (capability[row], own or [NONE]) for row, own in styles if own is not None and row in capability
    }


def _highest(table: "pa.Table") -> dict[int, str]:
    """Row -> capability with the highest score; rows without a score are left out."""
    import numpy as np

    from curation.taxonomy import CAPABILITY_KEYS

    columns: list[Any] = [table[f"cap_{key}"].to_numpy().astype(float) for key in CAPABILITY_KEYS]
    scores = np.stack(columns, axis=1)
    known = ~np.isnan(scores).all(axis=1)
    best = np.where(np.isnan(scores), -1.0, scores)
    rows = table["row"].to_numpy()
    return {
        int(row): CAPABILITY_KEYS[int(own.argmax())] if own.max() > 0 else NONE
        for row, own in zip(rows[known], best[known], strict=True)
    }
