"""Deita: complexity · quality of the turns, highest sum first, skipping rows similar to one already taken.

Source: Liu et al. (arXiv 2312.15685) and their released code: two tuned LLM raters grade each turn, a row's
score is the sum over its turns of complexity · quality, and a row is accepted if its highest cosine to the
accepted rows is at most 0.9. The raters see the text only, so images count only through the vectors. Needs:
quality (deita_score), and the signal of the vectors. Cost class: C2. Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import (
    BudgetError,
    Published,
    Selection,
    Selector,
    SelectorError,
    bounded,
    numbers,
    one_of,
)
from curation.selectors.primitives.candidates import find_candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.greedy import greedy_similarity
from curation.selectors.signal_columns import columns_read, names_of


def reads(
    vectors: str | Sequence[str] = "emb_last_token", within: str | None = None, **_: object
) -> tuple[str, ...]:
    """The score, the vectors and, where used, the clusters."""
    return columns_read("deita_score", *names_of(vectors), f"cluster_{within}" if within else None)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    variant: str = "published",
    threshold: float = 0.9,
    vectors: str | Sequence[str] = "emb_last_token",
    within: str | None = None,
    fill: str = "none",
) -> Selection:
    """Rows by `deita_score`, highest first, if their cosine to all taken is at most `threshold`.

    `variant`: "published" ranks by the sum over the turns; "clean" by their mean (the sum divided by the
    pool's `n_turns`), so that a row does not win by the number of its turns. On the frozen table of
    tests/parity, whose rows have one to five turns, the picks of the two overlap by 0.21 (Jaccard).
    Ties by the hash of (seed, id). `vectors`: one vector column, or several joined. `within`: compare only
    inside cluster_<within>, for large pools. `fill`: where fewer rows pass than the budget, "none" raises
    BudgetError with their number (the released code returns fewer), "score" takes the best of the others
    (`filled`). Text-only rows are treated like all others, but have no image vectors. Rows without score,
    vector or cluster cannot be picked (`missing_value`). Reason: score, filled. Cost: rows · budget
    comparisons. Raises ColumnError, BudgetError, SizeError, SelectorError.
    """
    one_of("variant", variant, ("published", "clean"))
    one_of("fill", fill, ("none", "score"))
    if not -1 <= threshold <= 1:
        raise SelectorError(f"threshold must be a cosine from -1 to 1, got {threshold}")
    score = bounded(columns, "deita_score")[0]
    if variant == "clean":
        turns = bounded(columns, "n_turns", low=1)[0]
        score = score / turns
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{within}") if within else np.zeros(len(columns))
    usable = np.isfinite(score) & known & np.isfinite(clusters)
    # without filling, the number of available rows is known only after the comparisons
    requested = min(budget, int(usable.sum()) or budget) if fill == "none" else budget
    candidates = find_candidates(columns, requested, seed, usable)
    ranked = np.argsort(-score[candidates.rows], kind="stable")
    rows = candidates.rows[ranked]
    _, codes = np.unique(clusters[rows], return_inverse=True)
    taken = greedy_similarity(rows, units, budget, threshold, codes)
    missing = budget - len(taken)
    if missing and fill == "none":
        raise BudgetError(
            budget, len(taken), _why(candidates.notes["missing_value"], len(rows) - len(taken), threshold)
        )
    rest = np.setdiff1d(np.arange(len(rows)), taken)[:missing]
    places = ranked[np.concatenate([taken, rest])]
    filled = pa.array(np.arange(budget) >= len(taken))
    return candidates.selection(
        columns, places, {"filled": missing}, score=score[candidates.rows[places]], filled=filled
    )


def _why(missing: int, similar: int, threshold: float) -> str:
    reasons = [f"{missing:,} rows are missing_value"] if missing else []
    if similar:
        reasons.append(
            f"{similar:,} exceed cosine {threshold} to a taken row; raise threshold, or fill='score'"
        )
    return ", ".join(reasons)


PUBLISHED = Published(
    rule="highest sum over the turns of complexity x quality first; a row whose cosine to any accepted row "
    "exceeds 0.9 is skipped",
    source="arXiv 2312.15685, code",
    variants={"published": {}, "clean": {"variant": "clean"}},
    differs={"clean": "mean over the turns instead of their sum, which ranks by the number of turns first"},
)
SELECTOR = Selector(select, reads=reads, cost="C2", nested=True, published=PUBLISHED)
