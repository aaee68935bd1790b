"""What can be had without looking: the best answer to each benchmark question that the pool suggests for its text alone."""

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
    """The question with names, colours and cells replaced, and multi-choice options cut off: what repeats between samples."""
    text = question.replace(IMAGE_PLACEHOLDER, " ").split("( a )")[0]
    return " ".join(_SLOT.sub("_", text).split()) + (" ( a )" if "( a )" in question else "")


def blind_majority(
    samples: Iterable[Sample], bench: Path, score: Callable[[str, str, str, list[str]], float]
) -> dict[str, float]:
    """Score of answering every item with the pool's most frequent answer to its pattern: {capability: 0..1}.

    Patterns that the pool does not have get the most frequent answer to any. `score(kind, prediction, answer, options)`.
    """
    by_pattern, overall = defaultdict(Counter), Counter()
    for sample in samples:
        for turn in sample.turns:
            by_pattern[pattern(turn.question)][turn.answer] += 1
            overall[turn.answer] += 1
    best = {p: min(c, key=lambda a: (-c[a], a)) for p, c in by_pattern.items()}
    fallback = min(overall, key=lambda a: (-overall[a], a))
    out = {}
    for capability in CAPABILITY_KEYS:
        items = pq.read_table(
            bench / f"{capability}.parquet", columns=["question", "options", "answer", "kind"]
        ).to_pylist()
        values = [
            score(i["kind"], best.get(pattern(i["question"]), fallback), i["answer"], i["options"])
            for i in items
        ]
        out[capability] = sum(values) / len(values)
    return out
