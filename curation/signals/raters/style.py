"""Interaction styles: the styles that a fine-tuned styler names for a sample.

mode "greedy", the reference: a comma-separated list is decoded greedily from the cache that already holds
image, conversation and query; text that names none of the nine styles becomes "other" and is counted. mode
"likelihood", faster: the probability that the answer begins with each of the nine names is read in one
forward pass; the likeliest name is taken, and further ones down to `threshold` times its probability. A list
names its second style only after the first, so this is not the same function as greedy decoding: choose the
threshold on held-out labels (`agreement.choose_threshold`).
mode "official": one generation for each sample, as in mmSSR (arXiv 2503.13383). There, samples without an
image have no styles (`no_image`); in the other modes they have those of their text.

Columns: styles list<string> of style keys, the likeliest or first-named first; likelihood mode adds
style_logp_<key> float32 (nats).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

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
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.raters.prefix import Questions, SampleAnswers
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
    image: str | None = None,
    max_new_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the style signal of a pool to `out`; parts that are complete are kept.

    threshold: of likelihood mode, in (0, 1]; 1 names one style. image, max_new_tokens: as for
    `score_capabilities`.
    Returns samples/s, padding efficiency of the prefixes, counts by style, rows with unknown text
    (`other_rows`), rows without a value by reason, and (likelihood) the mean total probability of the nine
    names with the count of rows where it is low.
    Raises PromptError when the model's tokenizer cannot represent the style phrases, ValueError for a model
    whose attention cannot share a prefix.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    queries, stats = load_queries(prompts), PassStats()
    vlm = Vlm(model_dir, dtype=dtype, device=device, view=image or queries.view)
    max_new_tokens = max_new_tokens or queries.max_new_tokens or MAX_NEW_TOKENS
    style_question(vlm.renderer, queries)  # raises before any work, in every mode

    def compute(rows: range, advance: Advance) -> pa.Table:
        if mode == "official":
            return score_rows_official(pool, rows, vlm, queries, stats, advance, max_new_tokens)
        return score_rows(
            pool, rows, vlm, queries, batch_size, stats, advance, mode=mode, threshold=threshold
        )

    identity = {**vlm.identity("style", pool.hash), **queries.identity(), "mode": mode}
    if mode == "likelihood":
        identity["threshold"] = threshold
    if mode == "official":
        identity["max_new_tokens"] = max_new_tokens
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {**stats.summary(), **counts, **summarise_styles(read_signal(out, pool.hash))}


def max_answer_tokens(tokenizer: Any, queries: Queries) -> int:
    """Number of tokens of the longest valid answer: all nine phrases and the end of the turn."""
    return len(tokenizer.encode(queries.style_answer(list(queries.styles)), add_special_tokens=False)) + 1


def style_question(renderer: "Renderer", queries: Queries) -> Question:
    """The style query as a question with the nine names as candidate answers.

    Raises PromptError where the tokens of one name begin with those of another, because their probabilities
    would overlap, and for an unknown word in the prompts.
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
    """Style keys of samples with name log-probs [n, 9], by falling probability; ties in taxonomy order.

    The likeliest style, and those of at least `threshold` times its probability (1: no further ones). Raises
    ValueError for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    keys = list(STYLES)
    styles = []
    for sample in np.asarray(log_probs, dtype=np.float64):
        order = np.argsort(-sample, kind="stable")
        chosen = sample[order] >= sample[order[0]] + np.log(threshold)
        # The likeliest is always named; styles that tie with it only for a threshold below 1.
        chosen[0], chosen[1:] = True, chosen[1:] & (threshold < 1)
        styles.append([keys[s] for s in order[chosen]])
    return styles


def text_table(rows: Sequence[int], texts: Sequence[str | None], queries: Queries) -> pa.Table:
    """The signal's columns from the styler's text for each row; null where there is none."""
    styles = [None if text is None else queries.parse_styles(text) for text in texts]
    return pa.table({"row": pa.array(rows, pa.int32()), "styles": pa.array(styles, pa.list_(pa.string()))})


def likelihood_table(
    rows: Sequence[int], log_probs: Sequence[np.ndarray | None], threshold: float
) -> pa.Table:
    """The signal's columns from each row's name log-probs [9]; null where there are none."""
    styles = [None if row is None else likely_styles(row[None], threshold)[0] for row in log_probs]
    columns = {"row": pa.array(rows, pa.int32()), "styles": pa.array(styles, pa.list_(pa.string()))}
    for s, style in enumerate(STYLES):
        values = [None if row is None else row[s] for row in log_probs]
        columns[f"style_logp_{style}"] = pa.array(values, pa.float32())
    return pa.table(columns)


def style_table(
    rows: Sequence[int],
    answers: "Sequence[SampleAnswers | None]",
    queries: Queries,
    mode: Mode,
    threshold: float,
) -> pa.Table:
    """The signal's columns from answers whose last question is the style query."""
    if mode == "likelihood":
        return likelihood_table(rows, [answer and answer.log_probs[-1] for answer in answers], threshold)
    return text_table(rows, [answer and answer.text for answer in answers], queries)


def style_questions(vlm: "Vlm", queries: Queries, mode: Mode) -> "Questions":
    """The style query, with the names as candidate answers (likelihood) or continued greedily (greedy)."""
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
    stats: "PassStats",
    advance: Advance,
    *,
    mode: Mode = "greedy",
    threshold: float = 0.5,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    from curation.signals.raters.prefix import answer_rows

    questions = style_questions(vlm, queries, mode)
    answers = answer_rows(pool, rows, questions, queries.flat, batch_size, stats, advance)
    return style_table(rows, answers, queries, mode, threshold)


def score_rows_official(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    stats: "PassStats",
    advance: Advance,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> pa.Table:
    """The signal's columns for some rows of a pool, by one generation for each sample."""
    texts = generate_rows(pool, rows, vlm, [queries.style], queries.flat, stats, advance, max_new_tokens)
    return text_table(rows, [None if answers is None else answers[0] for answers in texts], queries)


def summarise_styles(signal: pa.Table) -> dict[str, Any]:
    """Of a finished signal: rows, rows without styles, rows by style, (likelihood) mass of the names."""
    counts: dict[str, int] = {}
    for style in (style for styles in signal["styles"].drop_null().to_pylist() for style in styles):
        counts[style] = counts.get(style, 0) + 1
    summary = {
        "rows": len(signal),
        "rows_missing": signal["styles"].null_count,
        "styles": dict(sorted(counts.items())),
        "other_rows": counts.get(OTHER, 0),
    }
    columns = [f"style_logp_{style}" for style in STYLES]
    if set(columns) <= set(signal.column_names):
        mass = np.exp(np.stack([signal[column].drop_null().to_numpy() for column in columns])).sum(axis=0)
        summary["mean_style_mass"] = float(mass.mean()) if len(mass) else None
        summary["low_mass_styles"] = int((mass < LOW_MASS).sum())
    return summary
