"""Deita: complexity · quality, the highest first, skipping rows that resemble one already taken.

Source: Liu et al. (arXiv 2312.15685): scores of two tuned LLM raters, greedy acceptance while the highest cosine to the
accepted is at most 0.9. The raters see the text only, so images count only through the vectors. Needs: quality, and
the signal of the vectors (embedding). Cost class: C2. Blind.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curation.selectors.contract import BudgetError, Selection, Selector, SelectorError, bounded, numbers
from curation.selectors.primitives.candidates import candidates
from curation.selectors.primitives.cosine import joined
from curation.selectors.primitives.greedy import greedy_similarity
from curation.selectors.signal_columns import names_of, signals_of

FILLS = ("none", "score")


def needs(
    vectors: str | Sequence[str] = "emb_text", within: str | None = None, **_: object
) -> tuple[str, ...]:
    """The quality scores, the vectors and, if any, the clusters."""
    return signals_of("complexity", *names_of(vectors), f"cluster_{within}" if within else None)


def select(
    columns: pa.Table,
    budget: int,
    seed: int,
    *,
    threshold: float = 0.9,
    vectors: str | Sequence[str] = "emb_text",
    within: str | None = None,
    fill: str = "none",
) -> Selection:
    """Rows by `complexity` · `quality`, highest first, each taken if its cosine to all taken is at most `threshold`.

    Ties by the hash of (seed, id). `vectors`: one vector column, or several joined. `within`: compare only inside
    cluster_<within>, for pools whose pairs are too many. `fill`: where the rows that pass are fewer than the budget,
    "none" raises BudgetError with their number, "score" takes the best of the others (`filled`). Text-only rows are
    rows like others, unless the vectors are of images. Rows without score, vector or cluster cannot be picked
    (`missing_value`). Reason: score, filled. Cost: rows · budget comparisons. Raises ColumnError, BudgetError,
    SizeError, SelectorError.
    """
    if fill not in FILLS or not -1 <= threshold <= 1:
        raise SelectorError(
            f"fill {fill!r} is none of {', '.join(FILLS)}"
            if fill not in FILLS
            else f"threshold {threshold} is no cosine"
        )
    score = bounded(columns, "complexity")[0] * bounded(columns, "quality")[0]
    units, known = joined(columns, vectors)
    clusters = numbers(columns, f"cluster_{within}") if within else np.zeros(len(columns))
    usable = np.isfinite(score) & known & np.isfinite(clusters)
    # without filling, how many can be had is known only after the comparisons
    asked = min(budget, int(usable.sum()) or budget) if fill == "none" else budget
    found = candidates(columns, asked, seed, usable)
    ranked = np.argsort(-score[found.rows], kind="stable")
    rows = found.rows[ranked]
    _, codes = np.unique(clusters[rows], return_inverse=True)
    taken = greedy_similarity(rows, units, budget, threshold, codes)
    missing = budget - len(taken)
    if missing and fill == "none":
        raise BudgetError(
            budget, len(taken), _why(found.notes["missing_value"], len(rows) - len(taken), threshold)
        )
    rest = np.setdiff1d(np.arange(len(rows)), taken)[:missing]
    places = ranked[np.concatenate([taken, rest])]
    filled = pa.array(np.arange(budget) >= len(taken))
    return found.selection(
        columns, places, {"filled": missing}, score=score[found.rows[places]], filled=filled
    )


def _why(missing: int, alike: int, threshold: float) -> str:
    said = [f"{missing:,} rows are missing_value"] if missing else []
    if alike:
        said.append(
            f"{alike:,} exceed cosine {threshold} to one of those taken; raise threshold, or fill='score'"
        )
    return ", ".join(said)


SELECTOR = Selector(select, needs=needs, cost="C2", nested=True)
