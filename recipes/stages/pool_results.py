"""One pool of a comparison and what was made from it, and means over pools."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

DEFECTS = ("wrong", "mismatched", "blind", "leak")
"""Columns of the mini world's record that mark planted defects."""


@dataclass(frozen=True)
class PoolResults:
    """One pool and what was made from it: the directories by input name. `seed` is None for a pool that was not drawn."""

    seed: int | None
    inputs: dict[str, Path]

    @cached_property
    def data(self) -> Any:
        """The opened pool."""
        from curation.pool.read import Pool

        return Pool.open(self.inputs["pool"])

    @cached_property
    def truth(self) -> list[dict[str, Any]]:
        """What the mini world's generator knows of each row of the pool; empty for any other pool."""
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
        """Source of each row."""
        return self.data.table["source"].to_pylist()


def mean_of(found: Sequence[Any]) -> Any:
    """Mean over pools of nested results, number by number: `n` is added up, None is left out, and one pool stays as it is."""
    if len(found) == 1:
        return found[0]
    if isinstance(found[0], dict):
        keys = dict.fromkeys(key for one in found for key in one)
        parts = {key: [one[key] for one in found if key in one] for key in keys}
        return {key: sum(values) if key == "n" else mean_of(values) for key, values in parts.items()}
    known = [value for value in found if value is not None]
    return fmean(known) if known else None
