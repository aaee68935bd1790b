"""EL2N: mean over the answer's tokens of |softmax - one-hot|, the highest first.

Source: Paul et al. (arXiv 2107.07075), in the token-mean form used for VLMs. Needs: base_losses (or
necessity, for the seed model). Cost class: C2; C4 with the seed model. Blind.
"""

import math

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read, loss_column

HIGHEST = math.sqrt(2) + 1e-3
"""The error norm of a distribution is at most sqrt(2); 1e-3 is slack for half precision."""


def reads(model: str = "base", **_: object) -> tuple[str, ...]:
    """The losses under `model`."""
    return columns_read(loss_column(model, "el2n"))


def select(columns: pa.Table, budget: int, seed: int, *, rule: str = "top", model: str = "base") -> Selection:
    """The `budget` rows at the `rule` end ("top", "bottom", "mid": around the median) by EL2N under `model`.

    Ties by the hash of (seed, id). Text-only rows are treated like all others. Rows without a value
    (`missing_value`) or with one outside 0 .. sqrt(2) (`out_of_range`) cannot be picked. Raises ColumnError,
    BudgetError, SelectorError.
    """
    values, outside = bounded(columns, loss_column(model, "el2n"), low=0, high=HIGHEST)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values), outside=outside)
    places = band(values[candidates.rows], candidates.budget, rule)
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


PUBLISHED = Published(
    rule="the highest mean over answer tokens of the distance between softmax and one-hot",
    source="arXiv 2107.07075; VLM baseline of COINCIDE (2406.10995), code read",
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=True, published=PUBLISHED)
