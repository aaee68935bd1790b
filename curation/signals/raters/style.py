"""Interaction styles: what a fine-tuned styler names when it is asked for the styles of a sample.

mode "greedy", the reference: greedy decoding of a comma-separated list, from the cache that already holds image,
conversation and query; text that names none of the nine becomes "other" and is counted. mode "likelihood", faster: the
probability that the answer begins with each of the nine names, read in one forward; the likeliest name is taken, and further
ones down to `threshold` times its probability. A list names its second style only after the first, so the two modes are not
the same function: choose the threshold on held-out labels (`rater_report.choose_threshold`). mode "official": a generation
of its own for each sample, as mmSSR does (arXiv 2503.13383); samples without an image then have no styles (`no_image`), in
the other modes those of their text.

Columns: styles list<string> of style keys, likeliest or first-named first; likelihood adds style_logp_<key> float32 (nats).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.raters.capability import LOW_MASS, check_tokenizer
from curation.signals.raters.official import MAX_NEW_TOKENS, generate_rows
from curation.signals.raters.queries import OTHER, PromptError, Queries, load_queries
from curation.signals.raters.trie import Question
from curation.taxonomy import STYLES

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import Pass, Vlm
    from curation.signals.raters.prefix import Questions
    from training.render import Renderer

Mode = Literal["greedy", "likelihood", "official"]


def score_styles(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    prompts: str = "compact",
    mode: Mode = "greedy",
    threshold: float = 0.5,
    batch_size: int = 64,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    image_mode: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the style signal of a pool to `out`; parts that are complete are kept.

    threshold: of likelihood mode, in (0, 1]; 1 names one style. dtype, device, image_mode: as for Vlm. max_new_tokens: of a
    generation in official mode. Returns samples/s, padding efficiency of the prefixes, counts by style, the rows with
    unknown text (`other_rows`), those without a value by reason, and (likelihood) the mean probability of the nine names
    together with the count of rows where it is low.
    Raises PromptError when the model's tokenizer cannot express the style phrases, ValueError for a model whose attention
    cannot share a prefix.
    """
    from curation.signals.core.vlm import Pass, Vlm

    vlm = Vlm(model_dir, dtype=dtype, device=device, image_mode=image_mode)
    queries, done = load_queries(prompts), Pass()
    style_question(vlm.renderer, queries)

    def compute(rows: range, advance: Advance) -> pa.Table:
        if mode == "official":
            return score_rows_official(pool, rows, vlm, queries, done, advance, max_new_tokens)
        return score_rows(pool, rows, vlm, queries, batch_size, done, advance, mode=mode, threshold=threshold)

    identity = {
        **vlm.identity("style", pool.hash),
        "prompts": queries.name,
        "prompt_hash": queries.hash,
        "mode": mode,
    }
    identity |= {"likelihood": {"threshold": threshold}, "official": {"max_new_tokens": max_new_tokens}}.get(
        mode, {}
    )
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {**done.summary(), **counts, **summarise(read_signal(out, pool.hash))}


def max_answer_tokens(tokenizer: Any, queries: Queries) -> int:
    """Tokens that the longest possible answer takes: all nine phrases, and the end of the turn."""
    return len(tokenizer.encode(queries.style_answer(list(queries.styles)), add_special_tokens=False)) + 1


def style_question(renderer: "Renderer", queries: Queries) -> Question:
    """The style query with the nine names as its answers.

    Raises PromptError where one name's tokens begin another's, so that their probabilities would overlap, or a word of the
    prompts is unknown.
    """
    check_tokenizer(renderer.tokenizer, queries)
    names = tuple(
        renderer.answer_tokens(queries.style, phrase, queries.flat) for phrase in queries.styles.values()
    )
    for first, second in ((a, b) for i, a in enumerate(names) for j, b in enumerate(names) if i != j):
        if second[: len(first)] == first:
            raise PromptError(
                f"prompt set {queries.name!r}: the tokens of one style begin with those of another ({first})"
            )
    return Question(renderer.query_tokens(queries.style, queries.flat), names)


def likely_styles(log_probs: np.ndarray, threshold: float) -> list[list[str]]:
    """Style keys of samples with name log-probabilities [n, 9]: the likeliest, and those of at least `threshold` times its
    probability, in falling order; equal ones in the taxonomy's. Raises ValueError for a threshold outside (0, 1]."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a share in (0, 1], got {threshold}")
    keys = list(STYLES)
    named = []
    for values in np.asarray(log_probs, dtype=np.float64):
        order = np.argsort(-values, kind="stable")
        further = values[order] >= values[order[0]] + np.log(threshold)
        further[0], further[1:] = True, further[1:] & (threshold < 1)
        named.append([keys[k] for k in order[further]])
    return named


def style_table(
    rows: Sequence[int],
    values: Sequence[str | np.ndarray | None],
    queries: Queries,
    mode: str,
    threshold: float,
) -> pa.Table:
    """The signal's columns from texts (greedy, official) or name log-probabilities [9] (likelihood) of each row."""
    columns = {"row": pa.array(rows, pa.int32())}
    if mode != "likelihood":
        styles = [None if text is None else queries.parse_styles(text) for text in values]
        return pa.table({**columns, "styles": pa.array(styles, pa.list_(pa.string()))})
    styles = [None if value is None else likely_styles(value[None], threshold)[0] for value in values]
    columns["styles"] = pa.array(styles, pa.list_(pa.string()))
    for k, key in enumerate(STYLES):
        columns[f"style_logp_{key}"] = pa.array(
            [None if value is None else value[k] for value in values], pa.float32()
        )
    return pa.table(columns)


def style_questions(vlm: "Vlm", queries: Queries, mode: str) -> "Questions":
    """The style query, with the nine names as its answers (likelihood) or to be continued greedily."""
    from curation.signals.raters.prefix import Questions

    question = style_question(vlm.renderer, queries)
    if mode == "likelihood":
        return Questions(vlm, [question])
    return Questions(
        vlm,
        [Question(question.prompt)],
        continued=0,
        max_new_tokens=max_answer_tokens(vlm.tokenizer, queries),
    )


def score_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    batch_size: int,
    done: "Pass",
    advance: Advance,
    *,
    mode: Mode = "greedy",
    threshold: float = 0.5,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    from curation.signals.raters.prefix import answer_rows

    answers = answer_rows(
        pool, rows, style_questions(vlm, queries, mode), queries.flat, batch_size, done, advance
    )
    values = [answer and (answer.log_probs[0] if mode == "likelihood" else answer.text) for answer in answers]
    return style_table(rows, values, queries, mode, threshold)


def score_rows_official(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    done: "Pass",
    advance: Advance,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> pa.Table:
    """The signal's columns for some rows of a pool by one generation a sample."""
    texts = generate_rows(pool, rows, vlm, [queries.style], queries.flat, done, advance, max_new_tokens)
    return style_table(rows, [row and row[0] for row in texts], queries, "official", 1.0)


def summarise(signal: pa.Table) -> dict[str, Any]:
    """Counts of a finished style signal: rows, rows without styles, styles, and how sure the names are (likelihood)."""
    named = signal["styles"].drop_null().to_pylist()
    counts: dict[str, int] = {}
    for style in (style for styles in named for style in styles):
        counts[style] = counts.get(style, 0) + 1
    out = {
        "rows": len(signal),
        "rows_missing": signal["styles"].null_count,
        "styles": dict(sorted(counts.items())),
        "other_rows": counts.get(OTHER, 0),
    }
    names = [f"style_logp_{key}" for key in STYLES]
    if set(names) <= set(signal.column_names):
        mass = np.exp(np.stack([signal[name].drop_null().to_numpy() for name in names])).sum(axis=0)
        out["mean_style_mass"] = float(mass.mean()) if len(mass) else None
        out["low_mass_styles"] = int((mass < LOW_MASS).sum())
    return out
