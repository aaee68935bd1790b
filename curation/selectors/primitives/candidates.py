"""Which rows a selector chooses from, and what becomes of the others: no value, or no image."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Selection,
    SelectorError,
    check_budget,
    numbers,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.primitives.keys import seeded_keys
from curation.selectors.primitives.quota import quota

TEXT_ONLY = ("exclude", "keep")


@dataclass(frozen=True)
class Candidates:
    """`rows` int64[n]: positions in the table, in the order of their hash `keys` uint64[n]; `budget` rows are to be picked.

    `kept`: name -> positions of rows that are in the subset beside what is picked (`text_only`, for example).
    """

    rows: np.ndarray
    keys: np.ndarray
    budget: int
    kept: dict[str, np.ndarray]
    notes: dict[str, int]

    def selection(
        self,
        columns: pa.Table,
        places: np.ndarray,
        notes: dict[str, int] | None = None,
        **reason: np.ndarray | pa.Array,
    ) -> Selection:
        """The rows at `places` int64[budget] of `rows`, then those kept.

        `reason` columns run beside `places`, and are null for kept rows; where rows may be kept, the reason `part`
        says "picked" or the name under which they are kept.
        """
        picks = np.concatenate([self.rows[places], *self.kept.values()])
        table = sources_of(columns, picks)
        for name, values in reason.items():
            table = table.append_column(name, _with_nulls(values, len(picks) - len(places)))
        if self.kept:
            parts = ["picked"] * len(places) + [name for name, rows in self.kept.items() for _ in rows]
            table = table.append_column("part", pa.array(parts, pa.string()))
        return Selection(row_numbers(columns)[picks], table, self.notes | (notes or {}))


def _with_nulls(values: np.ndarray | pa.Array, count: int) -> pa.ChunkedArray:
    values = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.chunked_array([values, pa.nulls(count, values.type)], type=values.type)


def by_hash(columns: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions int64[n], keys uint64[n]): the rows in the order of the hash of (seed, id), the same for every input order."""
    keys = seeded_keys(seed, texts(columns, "id"))
    order = np.lexsort((row_numbers(columns), keys))
    return order, keys[order]


def candidates(
    columns: pa.Table,
    budget: int,
    seed: int,
    usable: np.ndarray,
    *,
    outside: np.ndarray | None = None,
    text_only: str | None = None,
    taken: dict[str, np.ndarray] | None = None,
) -> Candidates:
    """The rows where `usable` bool[n], of which `budget` are to be picked. Notes count the rows that are set aside.

    `taken`: name -> bool[n] of rows that are in the subset beforehand, count into the budget and are no candidates.

    `missing_value`: not usable; those among them where `outside` bool[n] count as `out_of_range` instead.
    `text_only` is for signals that need an image; rows without one (`n_images` 0) are then no candidates, whatever
    their value. "exclude": they cannot be picked (note `text_only`). "keep": they get a share of the budget in
    proportion to their number, by the hash (note `text_only_kept`). None: they are rows like others.
    Raises BudgetError, which counts what can be had, and SelectorError for another policy.
    """
    if text_only not in (None, *TEXT_ONLY):
        raise SelectorError(f"text_only {text_only!r} is none of {', '.join(TEXT_ONLY)}")
    order, keys = by_hash(columns, seed)
    paid = np.logical_or.reduce([np.zeros(len(order), bool), *(taken or {}).values()])
    usable = usable | paid
    without = (numbers(columns, "n_images") == 0) & ~paid if text_only else np.zeros(len(order), bool)
    outside = np.zeros(len(order), bool) if outside is None else outside
    notes = {
        "missing_value": int((~usable & ~outside & ~without).sum()),
        "out_of_range": int((~usable & outside & ~without).sum()),
    }
    if text_only == "exclude":
        notes["text_only"] = int(without.sum())
    free = (usable & ~without & ~paid)[order]
    here, there = int(free.sum()), int(without.sum()) if text_only == "keep" else 0
    check_budget(
        budget,
        here + there + int(paid.sum()),
        ", ".join(f"{count:,} rows are {name}" for name, count in notes.items() if count),
    )
    share, kept = (int(x) for x in quota(np.array([here, there]), np.zeros(2), budget - int(paid.sum())))
    held = {name: order[rows[order]] for name, rows in (taken or {}).items()}
    if text_only == "keep":
        held["text_only"] = order[without[order]][:kept]
        notes["text_only_kept"] = kept
    return Candidates(order[free], keys[free], share, held, notes)
