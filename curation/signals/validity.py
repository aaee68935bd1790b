"""How valid a frozen model finds each answer, given image and question, and given the image alone (CVS).

    score_validity(pool, Path("model"), Path("signals/validity"))

Source: arXiv 2603.09715 (from its abstract and third parties' notes; no code was read). Columns, float32, of
P(yes) / (P(yes) + P(no)) at the first token of the reply:

- valid_with: shown are the images, the questions and the answers
- valid_without: the same without the questions

A sample becomes one user turn: its images, then for each turn a line with the question and one with the
answer, then the query. The wording of the query and of the two replies, what a conversation of several turns
looks like, and that other tokens than the two replies do not count are readings of ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.losses import answer_states

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

COLUMNS = ("valid_with", "valid_without")


@dataclass(frozen=True)
class Wording:
    """What stands before each question and each answer, the query after them, and the two replies."""

    question: str = "Question: "
    answer: str = "Answer: "
    query: str = "Is the answer valid for the image? Reply with Yes or No."
    yes: str = "Yes"
    no: str = "No"

    def ask(self, sample: Sample, with_question: bool) -> Sample:
        """The sample as one turn that asks for a verdict and is answered with `yes`."""
        lines = [IMAGE_PLACEHOLDER] * len(sample.images)
        for turn in sample.turns:
            if with_question:
                lines.append(self.question + turn.question.replace(IMAGE_PLACEHOLDER, "").strip())
            lines.append(self.answer + turn.answer)
        turn = Turn("\n".join([*lines, self.query]), self.yes)
        return Sample(sample.row, sample.id, sample.source, sample.images, (turn,))


def score_validity(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    question: str = Wording.question,
    answer: str = Wording.answer,
    query: str = Wording.query,
    yes: str = Wording.yes,
    no: str = Wording.no,
    max_tokens: int = 2048,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write both probabilities of a pool to `out`; parts that are complete are kept.

    max_tokens: padded tokens in a batch. A value is null where the sample cannot be rendered, its image
    cannot be decoded, or the probability is not finite; `missing` counts these by reason. Returns samples/s,
    padding efficiency, forwards, nulls and the mean of each column. Raises ValueError where both replies
    begin with the same token, whose probability would tell nothing.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    wording = Wording(question, answer, query, yes, no)
    vlm, stats = Vlm(model_dir, dtype=dtype, device=device), PassStats()
    replies = reply_tokens(vlm, wording)
    forwards = 0

    def compute(rows: range, advance: Advance) -> pa.Table:
        nonlocal forwards
        samples = list(pool.samples(rows))
        # the sample with its question, then without: in one pass, so that both are sorted by length together
        asked = [wording.ask(sample, shown) for sample in samples for shown in (True, False)]
        values = vlm.run(
            asked,
            encode=vlm.renderer.encode,
            make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
            score=partial(_verdicts, vlm, stats, replies),
            stats=stats,
            advance=lambda passes: None,
        )
        forwards += len(asked)
        stats.samples -= len(samples)  # `Vlm.run` counted passes; a sample is a row
        advance(len(rows))
        columns = {name: pa.array(values[at::2], pa.float32()) for at, name in enumerate(COLUMNS)}
        return pa.table({"row": pa.array(rows, pa.int32()), **columns})

    identity = {**vlm.identity("validity", pool.hash), **vars(wording)}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    known = {name: signal[name].drop_null().to_numpy() for name in COLUMNS}
    return {
        **stats.summary(),
        **counts,
        "forwards": forwards,
        "rows": len(signal),
        "nulls": {name: signal[name].null_count for name in COLUMNS},
        **{f"mean_{name}": float(values.mean()) if len(values) else None for name, values in known.items()},
    }


def reply_tokens(vlm: "Vlm", wording: Wording) -> tuple[int, int]:
    """The first token of either reply, as the checkpoint's template writes it. Raises ValueError."""
    yes, no = (_first_token(vlm, wording.query, reply) for reply in (wording.yes, wording.no))
    if yes == no:
        raise ValueError(
            f"the replies {wording.yes!r} and {wording.no!r} begin with the same token of {vlm.path}; "
            "give other words for `yes` and `no`"
        )
    return yes, no


def _first_token(vlm: "Vlm", query: str, reply: str) -> int:
    from training.render import IGNORE

    labels = vlm.renderer.encode(Sample(0, "", "", (), (Turn(query, reply),))).labels
    return int(labels[labels != IGNORE][0])


def _verdicts(
    vlm: "Vlm", stats: "PassStats", replies: tuple[int, int], examples: Sequence["Encoded"]
) -> list[float | None]:
    """P(yes) / (P(yes) + P(no)) of each example at its first labelled token; None where there is none."""
    rows, hidden, _ = answer_states(vlm, vlm.batch(examples))
    first = {row: at for at, row in reversed(list(enumerate(rows.tolist())))}
    log_probs = vlm.log_probs(hidden[list(first.values())])[:, list(replies)].double().tolist()
    found: list[float | None] = [None] * len(examples)
    for row, (yes, no) in zip(first, log_probs, strict=True):
        if math.isfinite(yes - no):
            found[row] = 1 / (1 + math.exp(no - yes)) if no - yes < 700 else 0.0
        else:
            stats.missing["not_finite"] += 1
    return found
