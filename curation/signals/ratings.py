"""Capability scores and styles of one model in one pass: each sample's prefix is computed once for all 15 queries.

For a model that is scorer and styler both. Where they are two models, curation/signals/capability.py and style.py each take
a pass of their own. The signal holds the columns of both.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from curation.signals import capability, style
from curation.signals.batches import batches_by_count
from curation.signals.queries import Queries, load_queries
from curation.signals.table import Advance, Progress, read_signal, write_signal
from curation.signals.trie import Question

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.vlm import Pass, Vlm
    from training.render import Encoded

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
    from curation.signals.vlm import Pass, Vlm

    vlm = Vlm(model_dir, dtype=dtype, device=device, image_mode=image_mode)
    queries, done = load_queries(prompts), Pass()

    def compute(rows: range, advance: Advance) -> pa.Table:
        return score_rows(pool, rows, vlm, queries, batch_size, done, advance, style_mode=style_mode, threshold=threshold)

    identity = {**vlm.identity("ratings", pool.hash), "prompts": queries.name, "prompt_hash": queries.hash, "style_mode": style_mode}
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
    from curation.signals.shared import Questions

    named = style.style_question(vlm.renderer, queries)
    greedy = style_mode == "greedy"
    digits = capability.digit_questions(vlm.renderer, queries)
    questions = Questions(
        vlm,
        [*digits, Question(named.prompt) if greedy else named],
        continued=len(digits) if greedy else None,
        max_new_tokens=style.max_answer_tokens(vlm.tokenizer, queries),
    )

    def score(examples: Sequence["Encoded"]) -> list[tuple[np.ndarray, str | np.ndarray]]:
        answered = questions(examples)
        scores = np.stack(answered.log_probs[: len(digits)], axis=1)
        return list(zip(scores, answered.texts if greedy else answered.log_probs[-1], strict=True))

    values = vlm.run(
        pool.samples(rows),
        encode=partial(vlm.renderer.context, flat=queries.flat),
        make_batches=partial(batches_by_count, batch_size=batch_size),
        score=score,
        done=done,
        advance=advance,
    )
    scores = capability.score_table(rows, [value and value[0] for value in values])
    styles = style.style_table(rows, [value and value[1] for value in values], queries, style_mode, threshold)
    for name in styles.column_names[1:]:
        scores = scores.append_column(name, styles[name])
    return scores
