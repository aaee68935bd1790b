"""Random with the same number of rows from every source, until small sources are exhausted.

Source: the balanced random of Ivison et al. (arXiv 2503.01807). Needs: nothing. Cost class: C0. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    Published,
    Selection,
    Selector,
    check_budget,
    row_numbers,
    sources_of,
    texts,
)
from curation.selectors.primitives.candidates import by_hash
from curation.selectors.primitives.keys import groups, rank_within, seeded_keys


def select(columns: pa.Table, budget: int, seed: int) -> Selection:
    """One random row of each source in turn, sources in an order shuffled by the seed: nested over budgets.

    Raises BudgetError.
    """
    check_budget(budget, len(columns))
    codes, names = groups(texts(columns, "source"))
    turn = rank_within(codes, by_hash(columns, seed)[0])
    source_keys = seeded_keys(seed, pa.array(names, pa.large_string()))
    picks = np.lexsort((source_keys[codes], turn))[:budget]
    reason = sources_of(columns, picks).append_column("round", pa.array(turn[picks], pa.int32()))
    return Selection(row_numbers(columns)[picks], reason)


PUBLISHED = Published(
    rule="random, equally many of each source until small sources are exhausted", source="arXiv 2503.01807"
)
SELECTOR = Selector(select, cost="C0", nested=True, published=PUBLISHED)
