"""How well a model answers a pool's questions by itself; of the seed model, the necessity of MoDS.

    score_answers(pool, Path("seed"), Path("signals/answered"))  # scored by rule
    score_answers(pool, seed, out, judge_model="gpt-4o", options={"max_cost_usd": 20})

Columns: answer_score (float32, 0 to 1), the mean over the turns that were asked; asked_turns (int32). Each of
the first `max_turns` questions is asked with the reference answers of the turns before it, and answered
greedily. An answer is scored by the form of its reference (curation/signals/answered/rules.py), or by a chat
model that reads question, reference and answer, without the images.

Source: MoDS (arXiv 2311.15653) calls a sample needed where a model tuned on a seed part answers it badly, by
an evaluation model. Whether MLLM-Selector (arXiv 2503.20502) means that is not published.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from curation.signals.answered import rules
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.quality.judge import Judge

RULE = "option letter, number within 5 %, F1 of words"
JUDGE_PROMPT = (
    "You grade the answer of a vision assistant. You cannot see the images; the reference answer is right. "
    "Grade how well the answer agrees with the reference, from 0 (wrong) to 100 (right and complete).\n"
    "Reply with the number alone.\n\n"
    "Question: {question}\n\nReference: {reference}\n\nAnswer: {answer}"
)


class Asked(NamedTuple):
    """A generated answer: the row's place in its shard, the question, its reference and the answer."""

    place: int
    question: str
    reference: str
    answer: str


def score_answers(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    max_turns: int = 3,
    max_new_tokens: int = 64,
    judge_model: str | None = None,
    base_url: str | None = None,
    max_failed: float = 0.05,
    options: dict[str, Any] | None = None,
    max_tokens: int = 2048,
    shard_rows: int = 2048,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the answer scores of a pool to `out`; parts that are complete are kept.

    max_turns: questions asked of a sample; later ones are not asked, and counted (`turns_not_asked`).
    max_new_tokens: of an answer. judge_model: a chat model at base_url (None: OpenAI's service) in place of
    the rules; options, max_failed: as for the quality signal's judge. max_tokens: padded tokens of a batch of
    prompts.

    A score is null where a prompt cannot be rendered, an image not be decoded, or the judge gives no grade
    for one of the turns; `missing` counts the turns by reason (these counts are of this run alone, without
    the parts of an earlier one). Returns samples/s, the mean score and, with a judge, its cost. Raises
    EngineError and what ChatClient raises.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    if max_turns < 1 or max_new_tokens < 1:
        raise ValueError(
            f"max_turns and max_new_tokens must be at least 1, got {max_turns} and {max_new_tokens}"
        )
    vlm, stats = Vlm(model_dir, dtype=dtype, device=device), PassStats()
    judge = _judge(judge_model, base_url, max_failed, options or {}) if judge_model else None
    left = 0

    def compute(rows: range, advance: Advance) -> pa.Table:
        nonlocal left
        samples = list(pool.samples(rows))
        places, prompts = questions_of(samples, max_turns)
        left += sum(len(sample.turns) for sample in samples) - len(prompts)
        answers = _answers(vlm, prompts, max_new_tokens, max_tokens, stats)
        stats.samples += len(rows) - len(prompts)  # a sample is a row, however many questions it has
        asked = [
            None if answer is None else Asked(place, *_last_turn(prompt), answer)
            for place, prompt, answer in zip(places, prompts, answers, strict=True)
        ]
        advance(len(rows))
        return _table(rows, places, _scores(asked, judge))

    identity = {
        **vlm.identity("answered", pool.hash),
        "max_turns": max_turns,
        "max_new_tokens": max_new_tokens,
        "scored_by": judge.identity() if judge else RULE,
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    scores = read_signal(out, pool.hash)["answer_score"]
    known = scores.drop_null().to_numpy()
    summary = {**stats.summary(), **counts, "rows": len(scores), "nulls": scores.null_count}
    if judge:
        graded = judge.summary()
        summary |= graded | {"missing": dict(Counter(summary["missing"]) + Counter(graded["missing"]))}
    return {
        **summary,
        "turns_not_asked": left,
        "mean_answer_score": float(known.mean(dtype="float64")) if len(known) else None,
    }


def questions_of(samples: Sequence[Sample], max_turns: int) -> tuple[list[int], list[Sample]]:
    """(place among `samples`, the sample cut after the turn that is asked) for each question to ask.

    A cut sample has the images whose placeholders are in its turns.
    """
    places, prompts = [], []
    for place, sample in enumerate(samples):
        for end in range(1, min(max_turns, len(sample.turns)) + 1):
            turns = sample.turns[:end]
            images = sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in turns)
            places.append(place)
            prompts.append(replace(sample, turns=turns, images=sample.images[:images]))
    return places, prompts


def _last_turn(sample: Sample) -> tuple[str, str]:
    turn = sample.turns[-1]
    return turn.question.replace(IMAGE_PLACEHOLDER, " ").strip(), turn.answer


def _answers(
    vlm: "Vlm", prompts: list[Sample], max_new_tokens: int, max_tokens: int, stats: "PassStats"
) -> list[str | None]:
    from curation.signals.core.generate import generate

    return vlm.run(
        prompts,
        encode=vlm.renderer.prompt,
        make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
        score=lambda examples: generate(vlm, examples, max_new_tokens),
        stats=stats,
        advance=lambda _: None,
    )


def _judge(model: str, base_url: str | None, max_failed: float, options: dict[str, Any]) -> "Judge":
    from curation.signals.quality.judge import Judge

    return Judge(model, base_url, max_failed=max_failed, prompt=JUDGE_PROMPT, fields=_fields, **options)


def _fields(asked: Asked) -> dict[str, str]:
    return {"question": asked.question, "reference": asked.reference, "answer": asked.answer}


def _scores(asked: Sequence[Asked | None], judge: "Judge | None") -> list[float | None]:
    """The score of each question, from 0 to 1; None for one without an answer or without a grade."""
    given = [each for each in asked if each is not None]
    grades: list[float | None] = (
        [grade and grade / 100 for grade in judge.grade(given, lambda _: None)]
        if judge
        else [rules.score(each.reference, each.answer) for each in given]
    )
    scored = iter(grades)
    return [None if each is None else next(scored) for each in asked]


def _table(rows: range, places: Sequence[int], scores: Sequence[float | None]) -> pa.Table:
    by_row: list[list[float | None]] = [[] for _ in rows]
    for place, score in zip(places, scores, strict=True):
        by_row[place].append(score)
    means = [_mean(values) for values in by_row]
    return pa.table(
        {
            "row": pa.array(rows, pa.int32()),
            "answer_score": pa.array(means, pa.float32()),
            "asked_turns": pa.array([len(values) for values in by_row], pa.int32()),
        }
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None for none at all, and where one of them is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
