"""Capability scores: how helpful a sample is for training each capability, as rated by a fine-tuned scorer.

mode "trie": image and conversation are computed once for a sample, and all capability queries are read after
that shared prefix in one more forward pass (curation/signals/raters/prefix.py). Nothing is decoded: the
distribution over the digits 0..5 at the end of each query gives the score. Samples without an image are
scored from their text.
mode "official": each query is answered by a generation of its own, as in mmSSR (arXiv 2503.13383). There,
samples without an image have no score (`no_image`).

Columns for each capability:

- cap_<key> int8: the most likely digit; in official mode the generated one, null where the text is not a
  score
- exp_<key> float32: the expected score under the probabilities renormalised over the six digits
- ent_<key> float32: the entropy of these probabilities, in nats
- mass_<key> float32: the probability that the answer begins with one of the six digits at all

In official mode exp, ent and mass are null.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.raters.official import MAX_NEW_TOKENS, generate_rows, parse_score
from curation.signals.raters.queries import PromptError, Queries, load_queries
from curation.signals.raters.trie import Question
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE
from training.one_turn import OneTurn

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Renderer

Mode = Literal["trie", "official"]
LOW_MASS = 0.5
"""Probability mass of the candidate answers below which a score is counted as doubtful."""


def score_capabilities(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    prompts: str = "compact",
    mode: Mode = "trie",
    batch_size: int = 16,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    image: str | None = None,
    max_new_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the capability signal of a pool to `out`; parts that are complete are kept.

    prompts: a prompt set by name or path (`load_queries`). image: the view of an image, "single" or "anyres";
    default: the prompt set's, else the checkpoint's. max_new_tokens: of a generation in official mode, which
    ignores batch_size; default: the prompt set's, else that of the released code.
    Returns samples/s, padding efficiency, mean digit mass, the counts of low-mass scores and of null scores,
    rows without scores by reason, and (official) texts that are not a score by reason.
    Raises PromptError when the model's tokenizer cannot represent the queries or the digits, ValueError for
    an unknown mode and for a model whose attention cannot share a prefix.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    queries, stats = load_queries(prompts), PassStats()
    vlm = Vlm(model_dir, dtype=dtype, device=device, view=image or queries.view)
    max_new_tokens = max_new_tokens or queries.max_new_tokens or MAX_NEW_TOKENS
    unparsed: Counter[str] = Counter()
    digit_questions(vlm.renderer, queries)  # raises before any work, in official mode too

    def compute(rows: range, advance: Advance) -> pa.Table:
        if mode == "official":
            return score_rows_official(pool, rows, vlm, queries, stats, advance, unparsed, max_new_tokens)
        return score_rows(pool, rows, vlm, queries, batch_size, stats, advance)

    identity = {**vlm.identity("capability", pool.hash), **queries.identity(), "mode": mode}
    if mode == "official":
        identity["max_new_tokens"] = max_new_tokens
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **stats.summary(),
        **counts,
        **summarise_scores(read_signal(out, pool.hash)),
        "unparsed": dict(sorted(unparsed.items())),
    }


def check_tokenizer(tokenizer: Any, queries: Queries) -> None:
    """Raises PromptError if the tokenizer does not know a word: a query would lose its meaning."""
    unknown = tokenizer.unk_token_id
    for text in queries.texts():
        ids = tokenizer.encode(text, add_special_tokens=False)
        if unknown is not None and unknown in ids:
            raise PromptError(f"the tokenizer does not know a word of {text!r} (prompt set {queries.name!r})")


def digit_questions(renderer: "Renderer", queries: Queries) -> list[Question]:
    """The capability queries as questions with the six digits as candidate answers.

    A digit must be a single token, which may be preceded by the same tokens for all six (LLaMA's tokenizer
    writes a token for the space before a word). Raises PromptError otherwise, and for an unknown word in the
    prompts.
    """
    check_tokenizer(renderer.tokenizer, queries)
    return [_digit_question(renderer, query, queries.flat) for query in queries.capability]


def _digit_question(renderer: "Renderer", query: str, flat: OneTurn | bool) -> Question:
    digits = tuple(renderer.answer_tokens(query, str(digit), flat) for digit in range(MAX_SCORE + 1))
    if len({digit[:-1] for digit in digits}) > 1 or len({digit[-1] for digit in digits}) < len(digits):
        raise PromptError(
            f"the digits 0..{MAX_SCORE} are not single tokens of this tokenizer ({digits}): "
            "no score can be read"
        )
    return Question(renderer.query_tokens(query, flat), digits)


def digit_scores(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(argmax int8, expected score, entropy in nats, digit mass; float32), each [...], of log-probs [..., 6].

    Ties of the argmax go to the lower score. Expectation and entropy are over the renormalised probabilities.
    """
    log_probs = np.asarray(log_probs, dtype=np.float64)
    mass = np.exp(log_probs).sum(axis=-1)
    # Subtracting the maximum first keeps the renormalisation exact where the mass underflows to 0.
    p = np.exp(log_probs - log_probs.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    expected = p @ np.arange(log_probs.shape[-1])
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)
    expected, entropy, mass = (
        np.maximum(values, 0.0).astype(np.float32) for values in (expected, entropy, mass)
    )
    return log_probs.argmax(axis=-1).astype(np.int8), expected, entropy, mass


def score_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    batch_size: int,
    stats: "PassStats",
    advance: Advance,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    from curation.signals.raters.prefix import Questions, answer_rows

    questions = Questions(vlm, digit_questions(vlm.renderer, queries))
    answers = answer_rows(pool, rows, questions, queries.flat, batch_size, stats, advance)
    return score_table(rows, [answer and np.stack(answer.log_probs) for answer in answers])


def score_rows_official(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    stats: "PassStats",
    advance: Advance,
    unparsed: Counter[str],
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> pa.Table:
    """The signal's columns for some rows of a pool, by one generation for each query.

    `unparsed` counts texts that are not a score, by reason.
    """
    texts = generate_rows(pool, rows, vlm, queries.capability, queries.flat, stats, advance, max_new_tokens)
    scores = [
        None if answers is None else [parse_score(text, unparsed) for text in answers] for answers in texts
    ]
    columns: dict[str, pa.Array] = {"row": pa.array(rows, pa.int32())}
    columns |= {
        f"cap_{capability}": pa.array([row and row[c] for row in scores], pa.int8())
        for c, capability in enumerate(CAPABILITY_KEYS)
    }
    for statistic in ("exp", "ent", "mass"):
        columns |= {
            f"{statistic}_{capability}": pa.nulls(len(rows), pa.float32()) for capability in CAPABILITY_KEYS
        }
    return pa.table(columns)


def score_table(rows: Sequence[int], log_probs: Sequence[np.ndarray | None]) -> pa.Table:
    """The signal's columns from each row's digit log-probs [14, 6]; null for a row without any (None)."""
    known = np.array([row is not None for row in log_probs], dtype=bool)
    blank = np.zeros((len(CAPABILITY_KEYS), MAX_SCORE + 1))
    stacked = np.array([blank if row is None else row for row in log_probs]).reshape(-1, *blank.shape)
    columns: dict[str, pa.Array] = {"row": pa.array(rows, pa.int32())}
    for statistic, values in zip(("cap", "exp", "ent", "mass"), digit_scores(stacked), strict=True):
        columns |= {
            f"{statistic}_{capability}": pa.array(values[:, c], mask=~known)
            for c, capability in enumerate(CAPABILITY_KEYS)
        }
    return pa.table(columns)


def summarise_scores(signal: pa.Table) -> dict[str, Any]:
    """Of a finished capability signal: rows, rows without any score, null scores, and the digit mass."""
    mass = np.concatenate(
        [signal[f"mass_{capability}"].drop_null().to_numpy() for capability in CAPABILITY_KEYS]
    )
    null = np.stack([signal[f"cap_{capability}"].is_null().to_numpy() for capability in CAPABILITY_KEYS])
    return {
        "rows": len(signal),
        "rows_missing": int(null.all(axis=0).sum()),
        "null_scores": int(null.sum()),
        "mean_digit_mass": float(mass.mean()) if len(mass) else None,
        "low_mass_scores": int((mass < LOW_MASS).sum()),
    }
