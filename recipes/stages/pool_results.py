"""One pool of a comparison with the artefacts computed from it, and means over pools."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

DEFECTS = ("wrong", "mismatched", "blind", "leak")
"""Columns of the mini world's ground truth that mark planted defects."""


@dataclass(frozen=True)
class PoolResults:
    """One pool and the artefacts computed from it; `inputs` are their directories by input name.

    `seed` is None for a pool that was not drawn.
    """

    seed: int | None
    inputs: dict[str, Path]

    @cached_property
    def data(self) -> Any:
        """The opened pool."""
        from curation.pool.read import Pool

        return Pool.open(self.inputs["pool"])

    @cached_property
    def truth(self) -> list[dict[str, Any]]:
        """The mini world's ground truth for each row of the pool; empty for any other pool."""
        import pyarrow.parquet as pq

        if "truth" not in self.inputs:
            return []
        columns = ["id", "capability", "root", *DEFECTS]
        by_id = {
            t["id"]: t
            for t in pq.read_table(self.inputs["truth"] / "truth.parquet", columns=columns).to_pylist()
        }
        return [by_id[id] for id in self.data.table["id"].to_pylist()]

    @cached_property
    def sources(self) -> list[str]:
        """The source of each row."""
        return self.data.table["source"].to_pylist()


def mean_of(by_pool: Sequence[Any]) -> Any:
    """Mean over pools of nested results; `n` is summed, None is skipped, a single pool stays as it is."""
    if len(by_pool) == 1:
        return by_pool[0]
    if isinstance(by_pool[0], dict):
        keys = dict.fromkeys(key for results in by_pool for key in results)
        parts = {key: [results[key] for results in by_pool if key in results] for key in keys}
        return {key: sum(values) if key == "n" else mean_of(values) for key, values in parts.items()}
    known = [value for value in by_pool if value is not None]
    return fmean(known) if known else None
