"""A quota per group, and a rule that picks inside it: the general form of most group-wise methods.

Allocation: proportional, equal, softmax of a group statistic, or explicit shares. Pick: top, bottom, random,
soft_sample, typicality, mmd, farthest. So: stratified random, best of each source, TIVE- or XMAS-like
selections from the user's own columns. Needs: the signals of the named columns. Cost class: that of the
columns. Blind, unless the columns are not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.selectors.contract import Selection, Selector, SelectorError, bounded, require, texts
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import COMPARED, SCORED, pick_by_group, rule
from curation.selectors.primitives.quota import explicit_shares, quota_by_group
from curation.selectors.signal_columns import columns_read, names_of


def reads(
    group: str | Sequence[str] = "source",
    stat: str | None = None,
    score: str | None = None,
    vectors: str | Sequence[str] | None = None,
    **_: object,
) -> tuple[str, ...]:
    """All columns that the parameters name."""
    return columns_read(*names_of(group), stat, score, *names_of(vectors or ()))


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    group: str | Sequence[str] = "source",
    allocation: str = "proportional",
    stat: str | None = None,
    tau: float = 1.0,
    shares: Mapping[str, float] | None = None,
    pick: str = "random",
    score: str | None = None,
    vectors: str | Sequence[str] | None = None,
    neighbours: int = 5,
    pick_tau: float = 1.0,
    sigma: float = 1.0,
    text_only: str | None = None,
) -> Selection:
    """From each group its quota of rows, by the rule `pick`; ties by the hash of (seed, id).

    `group`: a column of texts or whole numbers, or several, whose combinations are then the groups (joined by
    " / " in `shares` and in the reason). `allocation`: "proportional", "equal", "softmax" (of the group's
    mean of the column `stat`, divided by `tau`), "explicit" (`shares`: group -> weight; rows of other groups
    cannot be picked: `out_of_range`). What a full group cannot take goes to the others. `pick`: "top",
    "bottom", "soft_sample" (probability by exp(score / `pick_tau`)) read the column `score`; "typicality"
    (mean cosine to `neighbours`), "mmd" (kernel width `sigma`), "farthest" read `vectors`; "random" reads
    neither. Rows without one of the columns in use cannot be picked (`missing_value`). `text_only`: None
    (treated like all others), "exclude" or "keep". Reason: group, score. Raises ColumnError, BudgetError,
    SizeError, SelectorError.
    """
    _check(pick, score, vectors, allocation, stat)
    labels = _labels(columns, names_of(group))
    values = bounded(columns, score)[0] if score else np.zeros(len(columns))
    stats = bounded(columns, stat)[0] if stat else np.zeros(len(columns))
    units, known = joined(columns, vectors or ()) if pick in COMPARED else (None, np.ones(len(columns), bool))
    usable = np.asarray(labels.is_valid()) & np.isfinite(values) & np.isfinite(stats) & known
    shares = shares or {}
    shared = usable & _has_share(labels, shares) if allocation == "explicit" else usable
    candidates = find_candidates(columns, budget, seed, shared, outside=usable & ~shared, text_only=text_only)
    codes, names = groups(labels.take(pa.array(candidates.rows)))
    sizes = np.bincount(codes, minlength=len(names))
    means = np.bincount(codes, weights=stats[candidates.rows], minlength=len(names)) / np.maximum(sizes, 1)
    weights = np.array([float(shares[name]) for name in names]) if allocation == "explicit" else None
    counts = quota_by_group(
        sizes, candidates.budget, allocation=allocation, stat=means, tau=tau, shares=weights
    )
    pick_rule = rule(pick, neighbours=neighbours, tau=pick_tau, sigma=sigma)
    places = pick_by_group(
        candidates.rows, codes, counts, pick_rule, candidates.keys, score=values[candidates.rows], units=units
    )
    reason = {"group": pa.array(names, pa.large_string()).take(pa.array(codes[places]))}
    return candidates.selection(
        columns, places, None, **reason, **({"score": values[candidates.rows[places]]} if score else {})
    )


def _check(
    pick: str, score: str | None, vectors: str | Sequence[str] | None, allocation: str, stat: str | None
) -> None:
    for needed, given, message in (
        (pick in SCORED, score, f"pick {pick!r} needs the parameter score: the column to read"),
        (pick in COMPARED, vectors, f"pick {pick!r} needs the parameter vectors: the column to read"),
        (
            allocation == "softmax",
            stat,
            "allocation 'softmax' needs the parameter stat: the column to average",
        ),
    ):
        if needed and not given:
            raise SelectorError(message)


def _has_share(labels: pa.Array, shares: Mapping[str, float]) -> np.ndarray:
    """bool[n]: whether the group of a row has a positive share."""
    names = groups(labels.drop_null())[1]
    weights = explicit_shares(names, shares)
    positive = [name for name, weight in zip(names, weights, strict=True) if weight > 0]
    return np.asarray(pc.is_in(labels, pa.array(positive, pa.large_string())))


def _labels(columns: pa.Table, names: list[str]) -> pa.Array:
    """One text per row; null where a column of whole numbers is null."""
    if not names:
        raise SelectorError("group: at least one column must be named")
    require(columns, names)
    parts = []
    for name in names:
        kind = columns[name].type
        parts.append(
            columns[name].cast(pa.large_string()).combine_chunks()
            if pa.types.is_integer(kind)
            else texts(columns, name)
        )
    return pc.binary_join_element_wise(*parts, pa.scalar(" / ", pa.large_string()), null_handling="emit_null")


SELECTOR = Selector(select, reads=reads, cost="C0")
