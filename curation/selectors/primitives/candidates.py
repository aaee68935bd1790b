"""The rows a selector chooses from, and the policy for rows without a value or without an image."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Selection,
    check_budget,
    numbers,
    one_of,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.primitives.keys import seeded_keys
from curation.selectors.primitives.quota import quota


@dataclass(frozen=True)
class Candidates:
    """`rows` int64[n]: positions in the table, by ascending hash `keys` uint64[n], to pick `budget` from.

    `kept`: name -> positions of rows that are in the subset besides the picks (for example `text_only`).
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

        `reason` columns are aligned with `places`, and null for kept rows. Where rows may be kept, the reason
        `part` is "picked" or the name under which a row is kept.
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


def nested_unless_kept(text_only: str | None = None, **_: object) -> bool:
    """`Selector.nested` of a method that picks one row after the other.

    A share kept for text-only rows ("keep") grows with the budget, and these rows come last.
    """
    return text_only != "keep"


def by_hash(columns: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions int64[n], keys uint64[n]) by ascending hash of (seed, id), whatever the input order."""
    keys = seeded_keys(seed, texts(columns, "id"))
    order = np.lexsort((row_numbers(columns), keys))
    return order, keys[order]


def find_candidates(
    columns: pa.Table,
    budget: int,
    seed: int,
    usable: np.ndarray,
    *,
    outside: np.ndarray | None = None,
    text_only: str | None = None,
    preselected: dict[str, np.ndarray] | None = None,
) -> Candidates:
    """The rows where `usable` bool[n], to pick `budget` from. Notes count the rows that are left out.

    The others are counted as `out_of_range` where `outside` bool[n], else as `missing_value`. `text_only` is
    for signals that need an image; rows without one (`n_images` 0) are then no candidates, whatever their
    value. "exclude": they cannot be picked (note `text_only`). "keep": they get a share of the budget in
    proportion to their number, by the hash (note `text_only_kept`). None: they are treated like all others.
    `preselected`: name -> bool[n] of rows that are in the subset anyway, count towards the budget and are no
    candidates. Raises BudgetError with the number of available rows, and SelectorError for another policy.
    """
    if text_only is not None:
        one_of("text_only", text_only, ("exclude", "keep"))
    order, keys = by_hash(columns, seed)
    forced = np.logical_or.reduce([np.zeros(len(order), bool), *(preselected or {}).values()])
    usable = usable | forced
    imageless = (numbers(columns, "n_images") == 0) & ~forced if text_only else np.zeros(len(order), bool)
    outside = np.zeros(len(order), bool) if outside is None else outside
    notes = {
        "missing_value": int((~usable & ~outside & ~imageless).sum()),
        "out_of_range": int((~usable & outside & ~imageless).sum()),
    }
    if text_only == "exclude":
        notes["text_only"] = int(imageless.sum())
    free = (usable & ~imageless & ~forced)[order]
    n_free, n_kept = int(free.sum()), int(imageless.sum()) if text_only == "keep" else 0
    check_budget(
        budget,
        n_free + n_kept + int(forced.sum()),
        ", ".join(f"{count:,} rows are {name}" for name, count in notes.items() if count),
    )
    share, kept = (
        int(count) for count in quota(np.array([n_free, n_kept]), np.zeros(2), budget - int(forced.sum()))
    )
    in_subset = {name: order[rows[order]] for name, rows in (preselected or {}).items()}
    if text_only == "keep":
        in_subset["text_only"] = order[imageless[order]][:kept]
        notes["text_only_kept"] = kept
    return Candidates(order[free], keys[free], share, in_subset, notes)
