"""Longest (or shortest, or middle) texts or answers first: a strong baseline (arXiv 2402.04833).

Source: Zhao et al., "Long is more for alignment", who take the longest answers (column="answer_tokens"); the
default, the longest text of question and answer, is a reading that needs no model; multimodal results in DICS
(25 %). Needs: nothing for `text_tokens`, the seed model's losses for `answer_tokens`. Cost class: C0. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read


def reads(column: str = "text_tokens", **_: object) -> tuple[str, ...]:
    """The column that holds lengths."""
    return columns_read(column)


def select(
    columns: pa.Table, budget: int, seed: int, *, column: str = "text_tokens", rule: str = "top"
) -> Selection:
    """The `budget` rows at the `rule` end ("top", "bottom", "mid": around the median) of `column`, in tokens.

    Ties by the hash of (seed, id). Text-only rows are treated like all others. Rows without a count
    (`missing_value`) or with one below 0 (`out_of_range`) cannot be picked. Raises ColumnError, BudgetError,
    SelectorError.
    """
    values, outside = bounded(columns, column, low=0)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values), outside=outside)
    places = band(values[candidates.rows], candidates.budget, rule)
    return candidates.selection(columns, places, score=values[candidates.rows[places]])


PUBLISHED = Published(
    rule="the longest answers, in tokens; read as the longest texts, which no model has to count",
    source="arXiv 2402.04833",
)
SELECTOR = Selector(select, reads=reads, cost="C0", nested=True, published=PUBLISHED)
