"""Capability scores and styles by one model in one pass: a sample's prefix is computed once for all queries.

For a model that is both scorer and styler. Where they are two models, capability.py and style.py take one
pass each. The signal holds the columns of both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.raters.capability import digit_questions, score_table, summarise_scores
from curation.signals.raters.queries import Queries, load_queries
from curation.signals.raters.style import max_answer_tokens, style_question, style_table, summarise_styles
from curation.signals.raters.trie import Question

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm

StyleMode = Literal["greedy", "likelihood"]


def score_capabilities_and_styles(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    prompts: str = "compact",
    style_mode: StyleMode = "greedy",
    threshold: float = 0.5,
    batch_size: int = 16,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    image: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one signal with the columns of score_capabilities and score_styles; complete parts are kept.

    Parameters, returned counts and errors are those of these two functions.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    if style_mode not in get_args(StyleMode):
        raise ValueError(f"style_mode must be one of {', '.join(get_args(StyleMode))}, got {style_mode!r}")
    queries, stats = load_queries(prompts), PassStats()
    vlm = Vlm(model_dir, dtype=dtype, device=device, view=image or queries.view)
    digit_questions(vlm.renderer, queries)  # both raise before any work
    style_question(vlm.renderer, queries)

    def compute(rows: range, advance: Advance) -> pa.Table:
        return score_rows(
            pool, rows, vlm, queries, batch_size, stats, advance, style_mode=style_mode, threshold=threshold
        )

    identity = {**vlm.identity("ratings", pool.hash), **queries.identity(), "style_mode": style_mode}
    if style_mode == "likelihood":
        identity["threshold"] = threshold
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    return {**stats.summary(), **counts, **summarise_styles(signal), **summarise_scores(signal)}


def score_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    batch_size: int,
    stats: "PassStats",
    advance: Advance,
    *,
    style_mode: StyleMode = "greedy",
    threshold: float = 0.5,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    from curation.signals.raters.prefix import Questions, answer_rows

    capabilities, style = digit_questions(vlm.renderer, queries), style_question(vlm.renderer, queries)
    greedy = style_mode == "greedy"
    questions = Questions(
        vlm,
        [*capabilities, Question(style.prompt) if greedy else style],
        continued=len(capabilities) if greedy else None,
        max_new_tokens=max_answer_tokens(vlm.tokenizer, queries),
    )
    answers = answer_rows(pool, rows, questions, queries.flat, batch_size, stats, advance)
    table = score_table(
        rows, [answer and np.stack(answer.log_probs[: len(capabilities)]) for answer in answers]
    )
    styles = style_table(rows, answers, queries, style_mode, threshold)
    for name in styles.column_names[1:]:
        table = table.append_column(name, styles[name])
    return table
