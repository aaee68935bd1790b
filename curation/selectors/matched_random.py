"""Random rows with the same make-up as a given subset: its sources, its text lengths, its image tokens.

The control that a selector has to beat before its choice of rows, and not merely their sources or lengths, is worth
anything (the token-matched random arm asked for in arXiv 2503.01807 and 2410.09335). Needs: reference, the membership
in the given subset. Cost class: C0. Blind (as blind as the given subset).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, SelectorError, bounded, flags, texts
from curation.selectors.primitives.candidates import candidates
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import pick_by_group, random
from curation.selectors.primitives.quota import apportion

LENGTHS = {"length": "text_tokens", "image_tokens": "image_tokens"}
MATCHES = ("source", *LENGTHS)


def select(
    columns: pa.Table, budget: int, seed: int, *, match: str | Sequence[str] = "source", bins: int = 10
) -> Selection:
    """`budget` rows by the hash of (seed, id), in the proportions in which the rows with `in_reference` fall into strata.

    A stratum is one value of each key of `match`, one or several of "source", "length" (histogram of text_tokens) and
    "image_tokens" (histogram of image_tokens, 0 for text-only rows, which so have a bin of their own where there are
    enough). Histogram edges are the least value, the quantiles 1/`bins`, 2/`bins`, ... and the greatest value of the
    reference. Counts by largest remainders; what a stratum is short of goes to the others in the same proportions
    (note `moved`). Rows of the reference may be drawn, too. Rows without a count cannot be picked (`missing_value`), nor
    those in strata that the reference does not have (`out_of_range`). Reason: source, stratum. Raises ColumnError,
    BudgetError, SelectorError.
    """
    keys = [match] if isinstance(match, str) else list(match)
    _check(keys, bins)
    given = flags(columns, "in_reference")
    parts, known = zip(*(_part(columns, key, given, bins) for key in keys), strict=True)
    usable = np.logical_and.reduce(known)
    if not (given & usable).any():
        raise SelectorError("no row is marked in_reference: there is nothing to match")
    _, strata = np.unique(np.stack(parts), axis=1, return_inverse=True)
    strata = strata.reshape(-1)  # its shape differs between versions of numpy
    wanted = np.bincount(strata[given & usable], minlength=strata.max() + 1)
    inside = usable & (wanted[strata] > 0)
    found = candidates(columns, budget, seed, inside, outside=usable & ~inside)
    codes = strata[found.rows]
    sizes = np.bincount(codes, minlength=len(wanted))
    weights, flat = wanted.astype(np.float64), np.zeros(len(wanted))
    counts = apportion(sizes, weights, flat, budget)
    unlimited = apportion(np.full(len(sizes), budget), weights, flat, budget)
    places = pick_by_group(found.rows, codes, counts, random, found.keys)
    moved = int(np.maximum(unlimited - counts, 0).sum())
    return found.selection(columns, places, {"moved": moved}, stratum=codes[places].astype(np.int32))


def _check(keys: list[str], bins: int) -> None:
    for key in keys:
        if key not in MATCHES:
            raise SelectorError(f"match {key!r} is none of {', '.join(MATCHES)}")
    if not keys or len(set(keys)) < len(keys):
        raise SelectorError(f"match {keys} must name one or more different keys of {', '.join(MATCHES)}")
    if bins < 1:
        raise SelectorError(f"bins {bins} must be at least 1")


def _part(columns: pa.Table, key: str, given: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    if key == "source":
        return groups(texts(columns, "source"))[0], np.ones(len(columns), bool)
    values, _ = bounded(columns, LENGTHS[key], low=0)
    known = np.isfinite(values)
    reference = np.sort(values[given & known])
    if not len(reference):
        return np.zeros(len(values), np.int64), known
    # edges are values that occur, not interpolated ones: equal on every machine
    edges = np.unique(
        [*reference[np.arange(bins) * len(reference) // bins], np.nextafter(reference[-1], np.inf)]
    )
    return np.searchsorted(edges, np.where(known, values, 0), "right"), known


SELECTOR = Selector(select, needs=("reference",), cost="C0")
