"""CoIDO: the rows that a co-trained scorer finds most important, from each source in proportion to its size.

Source: CoIDO (arXiv 2510.17847), paper and released code in words: a scorer is trained jointly with the model
on a random 20 % of the pool; in a batch, softmax of the scores weights the losses, and the spread of mean
weights between clusters is kept low (signal coido). Lower score = more important. Needs: coido. Cost class:
C4 (a training run). Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, numbers, texts
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.keys import groups
from curation.selectors.primitives.pick import bottom, pick_by_group
from curation.selectors.primitives.quota import quota
from curation.selectors.signal_columns import columns_read


def reads(column: str = "coido_score", **_: object) -> tuple[str, ...]:
    """The score."""
    return columns_read(column)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    column: str = "coido_score",
    text_only: str | None = "keep",
) -> Selection:
    """From each source its share of the budget by size: the rows with the lowest `column` first.

    Largest remainders; ties by the hash of (seed, id). Text-only rows: "keep" (a reading: they have no image
    vector to be scored by) gives them their share of the budget at random, "exclude" leaves them out, None
    treats them like all others. Rows without a score cannot be picked (`missing_value`). Reason: score.
    Raises ColumnError, BudgetError, SelectorError.
    """
    score = numbers(columns, column)
    candidates = find_candidates(columns, budget, seed, np.isfinite(score), text_only=text_only)
    codes, names = groups(texts(columns, "source").take(pa.array(candidates.rows)))
    sizes = np.bincount(codes, minlength=len(names))
    counts = quota(sizes, np.zeros(len(sizes)), candidates.budget)
    inside = score[candidates.rows]
    places = pick_by_group(candidates.rows, codes, counts, bottom, candidates.keys, score=inside)
    return candidates.selection(columns, places, score=inside[places])


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C4",
    published=Published(
        rule="quota of each source by size; in it the lowest score of a scorer that was trained jointly with "
        "the model on a random 20 %",
        source="arXiv 2510.17847; released code in words, notes of the paper",
    ),
)
