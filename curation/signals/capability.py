"""Capability scores: how helpful a sample is for training each of the 14 capabilities, as a fine-tuned scorer rates it.

The image and the conversation are computed once for a sample; the 14 queries are branches after that shared prefix.
Nothing is decoded: the distribution over the digits 0..5 at the end of each query gives the score (mmSSR, arXiv
2503.13383, decodes it). Columns for each capability: cap_<key> int8 (most likely digit), exp_<key> float32 (expected
score, probabilities renormalised over the six digits) and mass_<key> float32 (probability that the next token is one of
the six digits at all).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.signals.batches import batches_by_count
from curation.signals.queries import PromptError, Queries, load_queries
from curation.signals.table import Advance, Progress, read_signal, write_signal
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.vlm import Pass, Vlm
    from training.render import Encoded

LOW_MASS = 0.5
"""Below this digit mass a score is counted as doubtful: the model would rather say something that is no score."""


def score_capabilities(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    prompts: str = "compact",
    batch_size: int = 16,
    shard_rows: int = 8192,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the capability signal of a pool to `out`; parts that are complete are kept.

    Returns samples/s, padding efficiency, mean digit mass, the count of low-mass scores and of rows without scores by
    reason.
    Raises PromptError when the model's tokenizer cannot express the queries or the digits.
    """
    from curation.signals.vlm import Pass, Vlm

    vlm, queries, done = Vlm(model_dir), load_queries(prompts), Pass()
    digits = check_tokenizer(vlm.tokenizer, queries)

    def compute(rows: range, advance: Advance) -> pa.Table:
        return score_rows(pool, rows, vlm, queries, digits, batch_size, done, advance)

    identity = {**vlm.identity("capability", pool.hash), "prompts": queries.name, "prompt_hash": queries.hash}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {**done.summary(), **counts, **_mass_summary(read_signal(out, pool.hash))}


def check_tokenizer(tokenizer: Any, queries: Queries) -> list[int]:
    """The token ids of the digits 0..5, after checking that scores can be read and that no query loses its meaning.

    Raises PromptError if a digit is not a single token of its own, or the tokenizer does not know a word of the
    prompts.
    """
    digits = [tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(MAX_SCORE + 1)]
    if any(len(ids) != 1 for ids in digits) or len({ids[0] for ids in digits}) != len(digits):
        raise PromptError(
            f"the digits 0..{MAX_SCORE} are not single tokens of this tokenizer ({digits}): no score can be read"
        )
    unknown = tokenizer.unk_token_id
    for text in queries.texts():
        ids = tokenizer.encode(text, add_special_tokens=False)
        if unknown is not None and unknown in ids:
            raise PromptError(f"the tokenizer does not know a word of {text!r} (prompt set {queries.name!r})")
    return [ids[0] for ids in digits]


def digit_scores(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(argmax int8, expected score float32, digit mass float32), each [...], of digit log-probabilities [..., 6].

    Ties of the argmax go to the lower score.
    """
    p = np.exp(log_probs.astype(np.float64))
    mass = p.sum(axis=-1)
    renormalised = np.exp(log_probs - log_probs.max(axis=-1, keepdims=True)).astype(np.float64)
    expected = (renormalised @ np.arange(log_probs.shape[-1])) / renormalised.sum(axis=-1)
    return log_probs.argmax(axis=-1).astype(np.int8), expected.astype(np.float32), mass.astype(np.float32)


def branch_log_probs(vlm: "Vlm", examples: Sequence["Encoded"], digits: Sequence[int]) -> np.ndarray:
    """Digit log-probabilities float32 [B, queries, 6] at the end of each branch; all have the same queries."""
    batch = vlm.batch(examples)
    rows, positions = batch["branch_index"].unbind(dim=1)
    log_probs = vlm.log_probs(vlm.hidden(batch)[rows, positions])[:, list(digits)]
    return log_probs.view(len(examples), -1, len(digits)).cpu().numpy()


def score_rows(
    pool: "Pool",
    rows: Sequence[int],
    vlm: "Vlm",
    queries: Queries,
    digits: list[int],
    batch_size: int,
    done: "Pass",
    advance: Advance,
) -> pa.Table:
    """The signal's columns for some rows of a pool, in the order of `rows`."""
    asked = [(query, None) for query in queries.capability]
    values = vlm.run(
        pool.samples(rows),
        encode=partial(vlm.renderer.branches, queries=asked),
        make_batches=partial(batches_by_count, batch_size=batch_size),
        score=partial(branch_log_probs, vlm, digits=digits),
        done=done,
        advance=advance,
    )
    return score_table(rows, values)


def score_table(rows: Sequence[int], values: Sequence[np.ndarray | None]) -> pa.Table:
    """The signal's columns from digit log-probabilities [14, 6] for each row; null where there is no value."""
    known = np.array([value is not None for value in values])
    blank = np.zeros((len(CAPABILITY_KEYS), MAX_SCORE + 1), np.float32)
    scores = digit_scores(np.stack([blank if value is None else value for value in values]))
    columns = {"row": pa.array(rows, pa.int32())}
    for name, kind in zip(("cap", "exp", "mass"), scores, strict=True):
        columns |= {f"{name}_{key}": pa.array(kind[:, k], mask=~known) for k, key in enumerate(CAPABILITY_KEYS)}
    return pa.table(columns)


def _mass_summary(signal: pa.Table) -> dict[str, Any]:
    mass = np.concatenate([signal[f"mass_{key}"].drop_null().to_numpy() for key in CAPABILITY_KEYS])
    rows_missing = signal[f"cap_{CAPABILITY_KEYS[0]}"].null_count
    return {
        "rows": len(signal),
        "rows_missing": rows_missing,
        "mean_digit_mass": float(mass.mean()) if len(mass) else None,
        "low_mass_scores": int((mass < LOW_MASS).sum()),
    }
