"""Self-Filter: the hardest rows by a co-trained score net; each pick makes its near neighbours less so.

Source: Chen et al. (arXiv 2402.12501), released code in words: a linear net on CLIP features is trained
jointly with the model, whose loss its softmax in a batch weights (signal self_filter). Difficulty d = -score;
repeatedly the highest d, whose 10 nearest remaining rows lose gamma · d_pick · cosine^2. Needs: self_filter,
embedding_clip_pair. Cost class: C4 (a training run). Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import Published, Selection, Selector, SelectorError, numbers
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.remaining import penalise_remaining
from curation.selectors.signal_columns import columns_read, names_of


def reads(
    column: str = "filter_score",
    vectors: str | Sequence[str] = "emb_clip_pair",
    within: str | None = None,
    **_: object,
) -> tuple[str, ...]:
    """The score, the vectors and, where used, the clusters."""
    return columns_read(column, *names_of(vectors), f"cluster_{within}" if within else None)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    column: str = "filter_score",
    vectors: str | Sequence[str] = "emb_clip_pair",
    neighbours: int = 10,
    gamma: float = 1.0,
    within: str | None = None,
    text_only: str | None = "keep",
) -> Selection:
    """Rows by difficulty, minus `column`; each pick lowers that of its `neighbours` nearest unpicked rows.

    They lose gamma · d_pick · cosine^2; ties of difficulty and of cosine by the hash of (seed, id). A pick
    whose own difficulty is below 0 changes nothing (in the released code it raises its neighbours'; the paper
    means a penalty). Neighbours are found exactly, rows squared: above 100,000 rows name clusters by `within`
    (cluster_<within>), whose rows alone are then neighbours. Text-only rows: "keep" (a reading: they have no
    image vector) gives them their share of the budget at random, "exclude" leaves them out, None treats them
    like all others. Rows without score, vector or cluster cannot be picked (`missing_value`). Reason:
    difficulty (before any penalty), left (when it was picked). Raises ColumnError, BudgetError, SizeError,
    SelectorError.
    """
    if neighbours < 1 or not gamma >= 0:
        raise SelectorError(
            f"neighbours must be at least 1, gamma at least 0, got neighbours={neighbours}, gamma={gamma}"
        )
    score = numbers(columns, column)
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{within}") if within else np.zeros(len(columns))
    usable = np.isfinite(score) & known & np.isfinite(clusters)
    candidates = find_candidates(columns, budget, seed, usable, text_only=text_only)
    _, codes = np.unique(clusters[candidates.rows], return_inverse=True)
    difficulty = -score[candidates.rows]
    places, left = penalise_remaining(
        difficulty, candidates.rows, units, codes, candidates.budget, neighbours, gamma
    )
    return candidates.selection(columns, places, difficulty=difficulty[places], left=left)


SELECTOR = Selector(
    select,
    reads=reads,
    cost="C4",
    published=Published(
        rule="highest d = -score of a co-trained linear net on CLIP features; each pick lowers its 10 "
        "nearest remaining rows by gamma x d_pick x cosine^2",
        source="arXiv 2402.12501, released code in words",
    ),
)
