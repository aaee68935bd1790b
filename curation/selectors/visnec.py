"""VisNec: the rows whose answer the image helps most, L(A|Q) - L(A|I,Q), in each cluster of texts.

Source: VisNec (arXiv 2603.01195), under the model before instruction tuning, 20 clusters of instruction
embeddings. Needs: base_losses, base_losses_ablated (or the seed model's), cluster_text. Cost class: C3 (two
forward passes). Blind.
"""

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Selection, Selector, numbers
from curation.selectors.formulas import visual_necessity
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.pick import pick_by_group, top
from curation.selectors.primitives.quota import quota_by_group
from curation.selectors.signal_columns import columns_read, loss_column, losses


def reads(model: str = "base", cluster: str = "text", **_: object) -> tuple[str, ...]:
    """The losses with and without the image under `model`, and the clusters."""
    return columns_read(loss_column(model, "nll"), loss_column(model, "nll_noimg"), f"cluster_{cluster}")


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    model: str = "base",
    cluster: str = "text",
    text_only: str = "exclude",
) -> Selection:
    """From each cluster_<cluster> a number proportional to its size, highest visual necessity first.

    Ties by the hash of (seed, id). Text-only rows have no visual necessity: `text_only="exclude"` leaves them
    out, "keep" gives them their share of the budget at random. Rows with images but without losses or cluster
    cannot be picked (`missing_value`). Note `misleading`: picks whose image makes the answer less likely
    (value below 0). Raises ColumnError, BudgetError, SelectorError.
    """
    value = visual_necessity(*losses(columns, model, "nll_noimg", "nll"))
    clusters = numbers(columns, f"cluster_{cluster}")
    candidates = find_candidates(
        columns, budget, seed, np.isfinite(value) & np.isfinite(clusters), text_only=text_only
    )
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    counts = quota_by_group(np.bincount(codes), candidates.budget)
    score = value[candidates.rows]
    places = pick_by_group(candidates.rows, codes, counts, top, candidates.keys, score=score)
    picked = candidates.rows[places]
    notes = {"misleading": int((score[places] < 0).sum())}
    return candidates.selection(
        columns, places, notes, cluster=clusters[picked].astype(np.int32), score=score[places]
    )


SELECTOR = Selector(select, reads=reads, cost="C3")
