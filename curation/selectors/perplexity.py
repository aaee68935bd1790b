"""Answer perplexity exp L(A|I,Q): the highest, the lowest, or the band around the median.

Source: Marion et al. (arXiv 2309.04564) for pruning by perplexity; "PPL-mid" and "PPL-si" in the tables of
the mmSSR paper, whose suffixes may mean the checkpoint or the band: both are parameters here. Needs:
base_losses (or necessity, for the seed model). Cost class: C2; C4 with the seed model. Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, bounded
from curation.selectors.formulas import perplexity
from curation.selectors.primitives.band import band
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.signal_columns import columns_read, loss_column


def reads(model: str = "base", **_: object) -> tuple[str, ...]:
    """The losses under `model`."""
    return columns_read(loss_column(model, "nll"))


def select(columns: pa.Table, budget: int, seed: int, *, rule: str = "mid", model: str = "base") -> Selection:
    """The `budget` rows at the `rule` end ("top", "bottom", "mid": around the median) by the answer's
    perplexity.

    `model`: "base" or "seed" losses. Rows are ranked by the loss, which has the same order as perplexity;
    ties by the hash of (seed, id). Text-only rows are treated like all others: their loss needs no image.
    Rows without a loss (`missing_value`) or with one below 0 (`out_of_range`) cannot be picked. Raises
    ColumnError, BudgetError, SelectorError.
    """
    values, outside = bounded(columns, loss_column(model, "nll"), low=0)
    candidates = find_candidates(columns, budget, seed, np.isfinite(values), outside=outside)
    places = band(values[candidates.rows], candidates.budget, rule)
    return candidates.selection(columns, places, score=perplexity(values[candidates.rows[places]]))


PUBLISHED = Published(
    rule="rank by exp of the mean answer loss; keep an end, or the band around the median",
    source="arXiv 2309.04564; mmSSR's baseline (2503.13383), which does not say which band",
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=True, published=PUBLISHED)
