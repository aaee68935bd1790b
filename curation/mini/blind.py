"""Blind baseline: answer a benchmark question with the pool's most frequent answer to its text."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq

from curation.mini import art
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from curation.taxonomy import CAPABILITY_KEYS

NAMES = sorted(art.names().objects + tuple(art.COLORS) + art.SHAPES, key=len, reverse=True)
_SLOT = re.compile(r"\b(?:" + "|".join(map(re.escape, NAMES)) + r"|[a-d][1-4])\b")


def pattern(question: str) -> str:
    """The question with names, colours and cells replaced by `_` and multi-choice options cut off."""
    text = question.replace(IMAGE_PLACEHOLDER, " ").split("( a )")[0]
    return " ".join(_SLOT.sub("_", text).split()) + (" ( a )" if "( a )" in question else "")


def blind_majority(
    samples: Iterable[Sample], bench: Path, score: Callable[[str, str, str, list[str]], float]
) -> dict[str, float]:
    """Mean score, by capability (0..1), of the pool's most frequent answer to each item's question pattern.

    A pattern that the pool does not have gets the pool's most frequent answer. `score` receives (kind,
    prediction, answer, options) and returns 0..1.
    """
    by_pattern: defaultdict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for sample in samples:
        for turn in sample.turns:
            by_pattern[pattern(turn.question)][turn.answer] += 1
            overall[turn.answer] += 1
    best = {text: _most_frequent(answers) for text, answers in by_pattern.items()}
    fallback = _most_frequent(overall)
    means = {}
    for capability in CAPABILITY_KEYS:
        items = pq.read_table(
            bench / f"{capability}.parquet", columns=["question", "options", "answer", "kind"]
        ).to_pylist()
        values = [
            score(
                item["kind"], best.get(pattern(item["question"]), fallback), item["answer"], item["options"]
            )
            for item in items
        ]
        means[capability] = sum(values) / len(values)
    return means


def _most_frequent(answers: Counter[str]) -> str:
    return min(
        answers, key=lambda answer: (-answers[answer], answer)
    )  # ties to the first in alphabetical order
