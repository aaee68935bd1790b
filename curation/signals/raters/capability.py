"""Capability scores: how helpful a sample is for training each of the 14 capabilities, as a fine-tuned scorer rates it.

mode "trie": image and conversation are computed once for a sample, the 14 queries are read after that shared prefix in one
more forward (curation/signals/raters/prefix.py). Nothing is decoded: the distribution over the digits 0..5 at the end of each query
gives the score. mode "official": each query is answered by a generation of its own, as mmSSR does (arXiv 2503.13383).
Samples without an image are scored from their text; in official mode, as there, they have no score (`no_image`).

Columns for each capability: cap_<key> int8 (most likely digit), exp_<key> float32 (expected score), ent_<key> float32
(entropy in nats; both with the probabilities renormalised over the six digits) and mass_<key> float32 (probability that the
answer begins with one of the six digits at all). In official mode cap_<key> is what the text says, null where it says no
score, and the others are null.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.raters.official import MAX_NEW_TOKENS, generate_rows, parse_score
from curation.signals.raters.queries import PromptError, Queries, load_queries
from curation.signals.raters.trie import Question
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import Pass, Vlm
    from training.render import Renderer

LOW_MASS = 0.5
"""Below this digit mass a score is counted as doubtful: the model would rather say something that is no score."""


def score_capabilities(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    prompts: str = "compact",
    mode: Literal["trie", "official"] = "trie",
    batch_size: int = 16,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    image_mode: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the capability signal of a pool to `out`; parts that are complete are kept.

    dtype, device, image_mode: as for Vlm. max_new_tokens: of a generation in official mode, which has no batches either.
    Returns samples/s, padding efficiency, mean digit mass, the count of low-mass scores, of scores that are null, of rows
    without scores by reason, and (official) of texts without a score by reason.
    Raises PromptError when the model's tokenizer cannot express the queries or the digits, ValueError for a model whose
    attention cannot share a prefix.
    """
    from curation.signals.core.vlm import Pass, Vlm

    vlm = Vlm(model_dir, dtype=dtype, device=device, image_mode=image_mode)
    queries, done, unparsed = load_queries(prompts), Pass(), Counter()
    digit_questions(vlm.renderer, queries)

    def compute(rows: range, advance: Advance) -> pa.Table:
        if mode == "official":
            return score_rows_official(pool, rows, vlm, queries, done, advance, unparsed, max_new_tokens)
        return score_rows(pool, rows, vlm, queries, batch_size, done, advance)

    identity = {
        **vlm.identity("capability", pool.hash),
        "prompts": queries.name,
        "prompt_hash": queries.hash,
        "mode": mode,
    }
    if mode == "official":
        identity["max_new_tokens"] = max_new_tokens
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **done.summary(),
        **counts,
        **summarise(read_signal(out, pool.hash)),
        "unparsed": dict(sorted(unparsed.items())),
    }


def check_tokenizer(tokenizer: Any, queries: Queries) -> None:
    """Raises PromptError if the tokenizer does not know a word of the prompts, so that a query would lose its meaning."""
    unknown = tokenizer.unk_token_id
    for text in queries.texts():
        ids = tokenizer.encode(text, add_special_tokens=False)
        if unknown is not None and unknown in ids:
            raise PromptError(f"the tokenizer does not know a word of {text!r} (prompt set {queries.name!r})")


def digit_questions(renderer: "Renderer", queries: Queries) -> list[Question]:
    """The capability queries with the six digits as their answers, for a checkpoint's tokenizer.

    A digit is written by one token, which the same tokens may precede for all six (LLaMA's tokenizer begins a word with one
    for the space). Raises PromptError where it is not, or a word of the prompts is unknown.
    """
    check_tokenizer(renderer.tokenizer, queries)
    return [_digit_question(renderer, text, queries.flat) for text in queries.capability]


def _digit_question(renderer: "Renderer", text: str, flat: bool) -> Question:
    digits = tuple(renderer.answer_tokens(text, str(digit), flat) for digit in range(MAX_SCORE + 1))
    if len({digit[:-1] for digit in digits}) > 1 or len({digit[-1] for digit in digits}) < len(digits):
        raise PromptError(
            f"the digits 0..{MAX_SCORE} are not single tokens of this tokenizer ({digits}): no score can be read"
        )
    return Question(renderer.query_tokens(text, flat), digits)


def digit_scores(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(argmax int8, expected score, entropy in nats, digit mass; float32), each [...], of log-probabilities [..., 6].

    Ties of the argmax go to the lower score. Expectation and entropy are those of the six digits renormalised.
    """
    log_probs = np.asarray(log_probs, dtype=np.float64)
    mass = np.exp(log_probs).sum(axis=-1)
    p = np.exp(log_probs - log_probs.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    expected = p @ np.arange(log_probs.shape[-1])
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)
    floats = (np.maximum(values, 0.0).astype(np.float32) for values in (expected, entropy, mass))
    return log_probs.argmax(axis=-1).astype(np.int8), *floats


def score_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    batch_size: int,
    done: "Pass",
    advance: Advance,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    from curation.signals.raters.prefix import Questions, answer_rows

    questions = Questions(vlm, digit_questions(vlm.renderer, queries))
    answers = answer_rows(pool, rows, questions, queries.flat, batch_size, done, advance)
    return score_table(rows, [answer and np.stack(answer.log_probs) for answer in answers])


def score_rows_official(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    done: "Pass",
    advance: Advance,
    unparsed: Counter,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> pa.Table:
    """The signal's columns for some rows of a pool by one generation a query; `unparsed` counts texts without a score."""
    texts = generate_rows(pool, rows, vlm, queries.capability, queries.flat, done, advance, max_new_tokens)
    scores = [row and [parse_score(text, unparsed) for text in row] for row in texts]
    columns: dict[str, pa.Array] = {"row": pa.array(rows, pa.int32())}
    columns |= {
        f"cap_{key}": pa.array([row and row[k] for row in scores], pa.int8())
        for k, key in enumerate(CAPABILITY_KEYS)
    }
    for kind in ("exp", "ent", "mass"):
        columns |= {f"{kind}_{key}": pa.nulls(len(rows), pa.float32()) for key in CAPABILITY_KEYS}
    return pa.table(columns)


def score_table(rows: Sequence[int], values: Sequence[np.ndarray | None]) -> pa.Table:
    """The signal's columns from digit log-probabilities [14, 6] for each row; null where there is no value."""
    known = np.array([value is not None for value in values], dtype=bool)
    blank = np.zeros((len(CAPABILITY_KEYS), MAX_SCORE + 1))
    stacked = np.array([blank if value is None else value for value in values]).reshape(-1, *blank.shape)
    columns = {"row": pa.array(rows, pa.int32())}
    for name, kind in zip(("cap", "exp", "ent", "mass"), digit_scores(stacked), strict=True):
        columns |= {
            f"{name}_{key}": pa.array(kind[:, k], mask=~known) for k, key in enumerate(CAPABILITY_KEYS)
        }
    return pa.table(columns)


def summarise(signal: pa.Table) -> dict[str, Any]:
    """Counts of a finished capability signal: rows, rows without any score, scores that are null, and the digit mass."""
    mass = np.concatenate([signal[f"mass_{key}"].drop_null().to_numpy() for key in CAPABILITY_KEYS])
    null = np.stack([signal[f"cap_{key}"].is_null().to_numpy() for key in CAPABILITY_KEYS])
    return {
        "rows": len(signal),
        "rows_missing": int(null.all(axis=0).sum()),
        "null_scores": int(null.sum()),
        "mean_digit_mass": float(mass.mean()) if len(mass) else None,
        "low_mass_scores": int((mass < LOW_MASS).sum()),
    }
