"""Random rows with the composition of a given subset: its sources, its text lengths, its image tokens.

The control that a selector has to beat before its gain can be credited to the rows it picks, not merely to
their sources or lengths (the token-matched random arm that arXiv 2503.01807 and 2410.09335 call for). Needs:
reference, the membership in the given subset. Cost class: C0. Blind (as blind as the given subset).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, bounded, flags, one_of, texts
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import pick_by_group, random
from curation.selectors.primitives.quota import apportion

LENGTHS = {"length": "text_tokens", "image_tokens": "image_tokens"}
MATCHES = ("source", *LENGTHS)


def select(
    columns: pa.Table, budget: int, seed: int, *, match: str | Sequence[str] = "source", bins: int = 10
) -> Selection:
    """`budget` random rows in the proportions of the strata among the rows with `in_reference`.

    Random means by the hash of (seed, id). A stratum is one value of each key of `match`, one or several of
    "source", "length" (histogram of text_tokens) and "image_tokens" (histogram of image_tokens, 0 for
    text-only rows, which get a bin of their own where there are enough). Histogram edges are the minimum, the
    quantiles 1/`bins`, 2/`bins`, ... and the maximum of the reference. Counts by largest remainders; what a
    stratum lacks goes to the others in the same proportions (note `moved`). Rows of the reference may be
    drawn too. Rows without a count cannot be picked (`missing_value`), nor rows in strata that the reference
    does not have (`out_of_range`). Reason: source, stratum. Raises ColumnError, BudgetError, SelectorError.
    """
    keys = [match] if isinstance(match, str) else list(match)
    _check(keys, bins)
    reference = flags(columns, "in_reference")
    parts, known = zip(*(_stratum_part(columns, key, reference, bins) for key in keys), strict=True)
    usable = np.logical_and.reduce(known)
    if not (reference & usable).any():
        raise SelectorError("no usable row is marked in_reference, so there is nothing to match")
    _, strata = np.unique(np.stack(parts), axis=1, return_inverse=True)
    strata = strata.reshape(-1)  # numpy 2.0 returns another shape than other versions
    wanted = np.bincount(strata[reference & usable], minlength=strata.max() + 1)
    inside = usable & (wanted[strata] > 0)
    candidates = find_candidates(columns, budget, seed, inside, outside=usable & ~inside)
    codes = strata[candidates.rows]
    sizes = np.bincount(codes, minlength=len(wanted))
    weights, no_lift = wanted.astype(np.float64), np.zeros(len(wanted))
    counts = apportion(sizes, weights, no_lift, budget)
    uncapped = apportion(np.full(len(sizes), budget), weights, no_lift, budget)
    places = pick_by_group(candidates.rows, codes, counts, random, candidates.keys)
    moved = int(np.maximum(uncapped - counts, 0).sum())
    return candidates.selection(columns, places, {"moved": moved}, stratum=codes[places].astype(np.int32))


def _check(keys: list[str], bins: int) -> None:
    for key in keys:
        one_of("match", key, MATCHES)
    if not keys or len(set(keys)) < len(keys):
        raise SelectorError(f"match must name one or more different keys of {', '.join(MATCHES)}, got {keys}")
    if bins < 1:
        raise SelectorError(f"bins must be at least 1, got {bins}")


def _stratum_part(
    columns: pa.Table, key: str, reference: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """(code int64[n] of one key of `match`, known bool[n])."""
    if key == "source":
        return groups(texts(columns, "source"))[0], np.ones(len(columns), bool)
    values, _ = bounded(columns, LENGTHS[key], low=0)
    known = np.isfinite(values)
    ordered = np.sort(values[reference & known])
    if not len(ordered):
        return np.zeros(len(values), np.int64), known
    # edges are values that occur, not interpolated ones, so they are equal on every machine
    edges = np.unique([*ordered[np.arange(bins) * len(ordered) // bins], np.nextafter(ordered[-1], np.inf)])
    return np.searchsorted(edges, np.where(known, values, 0), "right"), known


SELECTOR = Selector(select, needs=("reference",), cost="C0")
