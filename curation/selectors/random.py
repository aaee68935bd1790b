"""Uniform without replacement: the baseline that published selectors have to beat, and often do not."""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, check_budget, row_numbers, sources_of, texts
from curation.selectors.primitives.keys import seeded_keys

NEEDS: tuple[str, ...] = ()
NESTED = True


def select(columns: pa.Table, budget: int, seed: int) -> Selection:
    """The `budget` rows with the smallest hash of (seed, id): nested over budgets.

    Cost: metadata only. Blind.
    """
    check_budget(budget, len(columns))
    picks = np.argsort(seeded_keys(seed, texts(columns, "id")), kind="stable")[:budget]
    return Selection(row_numbers(columns)[picks], sources_of(columns, picks))
