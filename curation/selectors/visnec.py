"""VisNec: the rows whose answer the image helps most, L(A|Q) - L(A|I,Q), in each cluster of texts.

Source: VisNec (arXiv 2603.01195) and its released code, under the model before instruction tuning, 20
clusters of sentence embeddings of the first instruction. Needs: base_losses, base_losses_ablated (or the seed
model's), cluster_visnec. Cost class: C3 (two forward passes). Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, numbers, one_of
from curation.selectors.formulas import visual_necessity
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.pick import pick_by_group, top
from curation.selectors.primitives.quota import at_least_one, quota_by_group
from curation.selectors.signal_columns import columns_read, loss_column, losses


def reads(model: str = "base", cluster: str = "visnec", **_: object) -> tuple[str, ...]:
    """The losses with and without the image under `model`, and the clusters."""
    return columns_read(loss_column(model, "nll"), loss_column(model, "nll_noimg"), f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    model: str = "base",
    cluster: str = "visnec",
    text_only: str | None = None,
) -> Selection:
    """From each cluster_<cluster> a number proportional to its size, highest visual necessity first.

    `variant`: "published" rounds each cluster's number down, to at least one. The release leaves the rows
    that rounding down loses unfilled; here they go to the largest remainders, and what the ones exceed comes
    from the clusters with the most. "clean" has largest remainders alone. `text_only`: None (default, as
    published) treats text-only rows like all others: their two losses are the same, so their value is 0.
    "exclude" leaves them out, as no loss can tell what an image is worth to them; "keep" gives them their
    share of the budget at random. On the frozen table of tests/parity, where one row in five is text-only,
    the published picks and those of "clean" with "exclude" overlap by 0.97 (Jaccard). Ties by the hash of
    (seed, id). Rows without losses or cluster cannot be picked (`missing_value`). Note `misleading`: picks
    whose image makes the answer less likely (value below 0). Raises ColumnError, BudgetError, SelectorError.
    """
    one_of("variant", variant, ("published", "clean"))
    value = visual_necessity(*losses(columns, model, "nll_noimg", "nll"))
    clusters = numbers(columns, f"cluster_{cluster}")
    candidates = find_candidates(
        columns, budget, seed, np.isfinite(value) & np.isfinite(clusters), text_only=text_only
    )
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    share = at_least_one if variant == "published" else quota_by_group
    counts = share(np.bincount(codes), candidates.budget)
    score = value[candidates.rows]
    places = pick_by_group(candidates.rows, codes, counts, top, candidates.keys, score=score)
    picked = candidates.rows[places]
    notes = {"misleading": int((score[places] < 0).sum())}
    return candidates.selection(
        columns, places, notes, cluster=clusters[picked].astype(np.int32), score=score[places]
    )


PUBLISHED = Published(
    rule="in each cluster of instructions, the highest L(A|Q) - L(A|I,Q), by size, at least one",
    source="arXiv 2603.01195, code",
    variants={"published": {}, "clean": {"variant": "clean", "text_only": "exclude"}},
    differs={"clean": "text-only rows are left out; numbers by largest remainders"},
)
SELECTOR = Selector(select, reads=reads, cost="C3", published=PUBLISHED)
