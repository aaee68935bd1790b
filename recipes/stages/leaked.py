"""What a comparison says of the leaks of its pools: counts, and the questions to leave out."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any


class Leaked:
    """The leaks that stage `leaks` found in each pool; none where nobody looked.

    `state`: drop, flag or off, as the recipe says. `folders`: one for each pool.
    """

    def __init__(self, state: str, folders: Sequence[Path]) -> None:
        self.state, self.folders = (state if folders else "off"), list(folders)

    @property
    def questions(self) -> dict[str, set[str]]:
        """Benchmark -> ids of the questions that a sample of any pool repeats; empty unless they are flagged.

        Those of samples that were taken out of the pool are repeated by none that is left.
        """
        return self._items if self.state == "flag" else {}

    @cached_property
    def _items(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for table in self._tables:
            pairs = zip(table["benchmark"].to_pylist(), table["item"].to_pylist(), strict=True)
            for benchmark, item in pairs:
                found.setdefault(benchmark, set()).add(item)
        return found

    def rows(self, pool: int) -> set[int] | None:
        """The rows of a pool that repeat a question; None where nobody looked."""
        if self.state != "flag":
            return set() if self.state == "drop" else None
        return set(self._tables[pool]["row"].to_pylist())

    def stamp(self) -> dict[str, Any]:
        """`Comparison.decontamination` (see evaluation/report/leaks.py)."""
        if self.state == "off":
            return {"state": "off"}
        summaries = self._summaries
        return {
            "state": self.state,
            "suite": summaries[0]["suite_hash"],
            "data": summaries[0]["data"],
            "rules": summaries[0]["rules"],
            "rows": sum(summary["leaked_samples"] for summary in summaries),
            "of": sum(summary["samples"] for summary in summaries),
            "items": {name: len(items) for name, items in self._items.items()},
            "kinds": _sums([summary["by_kind"] for summary in summaries]),
            "sources": self.by_source,
        }

    @cached_property
    def by_source(self) -> dict[str, int]:
        """Source -> samples that repeat a question, of all pools."""
        return _sums(
            [{name: own["samples"] for name, own in s["by_source"].items()} for s in self._summaries]
        )

    @cached_property
    def _summaries(self) -> list[dict[str, Any]]:
        import json

        return [json.loads((folder / "leaks.json").read_text()) for folder in self.folders]

    @cached_property
    def _tables(self) -> list[Any]:
        import pyarrow.parquet as pq

        columns = ["row", "benchmark", "item"]
        return [pq.read_table(folder / "leaks.parquet", columns=columns) for folder in self.folders]


def _sums(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for own in counts:
        for name, count in own.items():
            total[name] = total.get(name, 0) + count
    return total
