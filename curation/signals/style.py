"""Interaction styles: what a fine-tuned styler names when it is asked for the styles of a sample.

The reference mode of mmSSR: greedy decoding of a comma-separated list after image and conversation. Column: styles
list<string> of style keys; text that names none of the nine becomes "other" and is counted.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.signals.batches import batches_by_count
from curation.signals.capability import check_tokenizer
from curation.signals.queries import OTHER, Queries, load_queries
from curation.signals.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.vlm import Pass, Vlm
    from training.render import Encoded


def score_styles(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    prompts: str = "compact",
    batch_size: int = 64,
    shard_rows: int = 8192,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the style signal of a pool to `out`; parts that are complete are kept.

    Returns samples/s, padding efficiency of the prompts, counts by style, the rows with unknown text (`other_rows`) and
    those without a value by reason. Raises PromptError when the model's tokenizer cannot express the style phrases.
    """
    from curation.signals.vlm import Pass, Vlm

    vlm, queries, done = Vlm(model_dir, side="left"), load_queries(prompts), Pass()
    check_tokenizer(vlm.tokenizer, queries)

    def compute(rows: range, advance: Advance) -> pa.Table:
        return score_rows(pool, rows, vlm, queries, batch_size, done, advance)

    identity = {**vlm.identity("style", pool.hash), "prompts": queries.name, "prompt_hash": queries.hash}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {**done.summary(), **counts, **_style_summary(read_signal(out, pool.hash))}


def max_answer_tokens(tokenizer: Any, queries: Queries) -> int:
    """Tokens that the longest possible answer takes: all nine phrases, and the end of the turn."""
    return len(tokenizer.encode(queries.style_answer(list(queries.styles)), add_special_tokens=False)) + 1


def decode(vlm: "Vlm", examples: Sequence["Encoded"], max_new_tokens: int) -> list[str]:
    """Greedy continuation of each example, whose tokens end where the answer to the style query begins."""
    from transformers import GenerationConfig

    batch = vlm.batch([replace(example, branches=()) for example in examples])
    del batch["labels"]
    # Our own settings: a checkpoint may ship others (sampling, repetition penalty) in its generation_config.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=vlm.renderer.end_id,
        pad_token_id=vlm.renderer.pad_id,
    )
    tokens = vlm.model.generate(**batch, generation_config=greedy)[:, batch["input_ids"].shape[1] :]
    return vlm.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def score_rows(
    pool: "Pool", rows: Sequence[int], vlm: "Vlm", queries: Queries, batch_size: int, done: "Pass", advance: Advance
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    asked = [(queries.style, None)]
    longest = max_answer_tokens(vlm.tokenizer, queries)

    def named(examples: Sequence["Encoded"]) -> list[list[str]]:
        return [queries.parse_styles(text) for text in decode(vlm, examples, longest)]

    values = vlm.run(
        pool.samples(rows),
        encode=partial(vlm.renderer.branches, queries=asked),
        make_batches=partial(batches_by_count, batch_size=batch_size),
        score=named,
        done=done,
        advance=advance,
    )
    return pa.table({"row": pa.array(rows, pa.int32()), "styles": pa.array(values, pa.list_(pa.string()))})


def _style_summary(signal: pa.Table) -> dict[str, Any]:
    named = signal["styles"].drop_null().to_pylist()
    counts: dict[str, int] = {}
    for style in (style for styles in named for style in styles):
        counts[style] = counts.get(style, 0) + 1
    return {
        "rows": len(signal),
        "rows_missing": signal["styles"].null_count,
        "styles": dict(sorted(counts.items())),
        "other_rows": counts.get(OTHER, 0),
    }
