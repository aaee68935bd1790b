"""Capability scores and styles of one model in one pass: each sample's prefix is computed once for all 15 queries.

For a model that is scorer and styler both. Where they are two models, curation/signals/raters/capability.py and style.py each take
a pass of their own. The signal holds the columns of both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.raters import capability, style
from curation.signals.raters.queries import Queries, load_queries
from curation.signals.raters.trie import Question

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import Pass, Vlm

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
    image_mode: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one signal with the columns of score_capabilities and score_styles to `out`; complete parts are kept.

    Parameters, returned counts and errors are those of the two.
    """
    from curation.signals.core.vlm import Pass, Vlm

    vlm = Vlm(model_dir, dtype=dtype, device=device, image_mode=image_mode)
    queries, done = load_queries(prompts), Pass()
    capability.digit_questions(vlm.renderer, queries)
    style.style_question(vlm.renderer, queries)

    def compute(rows: range, advance: Advance) -> pa.Table:
        return score_rows(
            pool, rows, vlm, queries, batch_size, done, advance, style_mode=style_mode, threshold=threshold
        )

    identity = {
        **vlm.identity("ratings", pool.hash),
        "prompts": queries.name,
        "prompt_hash": queries.hash,
        "style_mode": style_mode,
    }
    identity |= {"threshold": threshold} if style_mode == "likelihood" else {}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    return {**done.summary(), **counts, **style.summarise(signal), **capability.summarise(signal)}


def score_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    batch_size: int,
    done: "Pass",
    advance: Advance,
    *,
    style_mode: StyleMode = "greedy",
    threshold: float = 0.5,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    from curation.signals.raters.prefix import Questions, answer_rows

    digits, named = (
        capability.digit_questions(vlm.renderer, queries),
        style.style_question(vlm.renderer, queries),
    )
    greedy = style_mode == "greedy"
    questions = Questions(
        vlm,
        [*digits, Question(named.prompt) if greedy else named],
        continued=len(digits) if greedy else None,
        max_new_tokens=style.max_answer_tokens(vlm.tokenizer, queries),
    )
    answers = answer_rows(pool, rows, questions, queries.flat, batch_size, done, advance)
    scores = capability.score_table(
        rows, [answer and np.stack(answer.log_probs[: len(digits)]) for answer in answers]
    )
    texts = [answer and (answer.text if greedy else answer.log_probs[-1]) for answer in answers]
    styles = style.style_table(rows, texts, queries, style_mode, threshold)
    for name in styles.column_names[1:]:
        scores = scores.append_column(name, styles[name])
    return scores
