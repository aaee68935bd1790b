"""The mini world's stand-in for reward model, judge and Deita's scorers, computed from its ground truth.

It does not model quality. It imitates known behaviour of text-only graders: longer and better formatted
answers and harder questions get higher grades; the image is not seen, so a mismatched image, a question that
needs no image or a leaked answer costs nothing; a wrong answer costs PENALTY standard deviations in reward,
judge and quality where the grader notices it, which each does independently with probability `knows_rate`.
Then independent noise of `noise` times the column's standard deviation is added to every column.

Before noise, with w answer words per turn, n turns, and difficulty d, the highest capability score of the
sample (0..5):

- reward = ln(1 + w), + FORMATTED if one of the sample's styles is in FORMS
- judge = min(40 + 10 · log2(1 + w), 90) + 2 d; after noise rounded and clipped to 0..100
- complexity = n · (1 + d)
- quality = n · min(6, 1 + log2(1 + w))

Each turn has the n-th part of a sample's complexity and quality, noise included.

Draws depend on (seed, id) alone (BLAKE2b) and are the same on every machine.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from curation.signals.core.table import OtherPoolError
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.draw import random_words

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample

PENALTY = 2.0
"""Cost of a noticed wrong answer, in standard deviations of the column."""
FORMATTED = 0.5
FORMS = {"chain_of_thought", "detailed_description", "comparison", "specified"}
"""Styles that require a formatted answer."""
SEES_ANSWERS = ("reward", "judge", "quality")
"""Columns that a wrong answer lowers; complexity grades the question only."""


def stand_ins(
    pool: "Pool", columns: Sequence[str], truth: Path, noise: float, knows_rate: float, seed: int
) -> dict[str, "StandIn"]:
    """A grader for each column.

    Raises ValueError for settings out of range, OtherPoolError for a truth table that lacks a sample of the
    pool.
    """
    if noise < 0 or not 0 <= knows_rate <= 1:
        raise ValueError(f"noise must be at least 0 and knows_rate in [0, 1], got {noise} and {knows_rate}")
    facts = _facts(pool, truth)
    settings = {
        "noise": noise,
        "knows_rate": knows_rate,
        "seed": seed,
        "truth": hashlib.sha256(truth.read_bytes()).hexdigest(),
    }
    return {column: StandIn(column, facts, settings) for column in columns}


class StandIn:
    """The grades of one column for a whole pool; the spread is their standard deviation before noise."""

    def __init__(self, column: str, facts: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
        self.column, self.settings = column, settings
        self._wrong, self._plain = facts["wrong"], _GRADES[column](facts)
        self._spread = float(self._plain.std())

    def identity(self) -> dict[str, Any]:
        return {"stand_in": self.column, **self.settings}

    def grade(self, samples: Sequence["Sample"], advance: Callable[[float], None]) -> list[float | None]:
        grades: list[float | None] = [self._grade(sample) for sample in samples]
        advance(len(samples))
        return grades

    def grade_turns(
        self, samples: Sequence["Sample"], advance: Callable[[float], None]
    ) -> list[list[float | None]]:
        """Equal grades of a sample's turns: the record tells their mean length and their hardest question."""
        advance(len(samples))
        return [[self._grade(sample) / len(sample.turns)] * len(sample.turns) for sample in samples]

    def join(self, by_sample: Sequence[Sequence[float | None]]) -> list[float | None]:
        """The sum over the turns of each sample; each of its turns has a grade."""
        return [math.fsum(grade for grade in grades if grade is not None) for grades in by_sample]

    def summary(self) -> dict[str, Any]:
        return {"missing": {}}

    def _grade(self, sample: "Sample") -> float:
        words = random_words(f"q/{self.column}", self.settings["seed"], sample.id)
        uniform = (words.astype(np.float64) + 0.5) / 2**32  # never 0, whose logarithm is taken below
        notices = (
            self.column in SEES_ANSWERS
            and self._wrong[sample.row]
            and uniform[0] < self.settings["knows_rate"]
        )
        normal = math.sqrt(-2 * math.log(uniform[1])) * math.cos(2 * math.pi * uniform[2])  # Box-Muller
        grade = float(self._plain[sample.row]) + self._spread * (
            self.settings["noise"] * normal - PENALTY * notices
        )
        return float(min(max(round(grade), 0), 100)) if self.column == "judge" else grade


def _facts(pool: "Pool", truth: Path) -> dict[str, np.ndarray]:
    """words (per turn), turns, difficulty, formatted, wrong: one value for each row of the pool."""
    names = ["id", "styles", "wrong", *(f"cap_{key}" for key in CAPABILITY_KEYS)]
    if absent := sorted(set(names) - set(pq.read_schema(truth).names)):
        raise ValueError(f"{truth} is not a truth table: it lacks the columns {', '.join(absent)}")
    table = pq.read_table(truth, columns=names)
    index = {id: i for i, id in enumerate(table["id"].to_pylist())}
    ids = pool.table["id"].to_pylist()
    if unknown := next((id for id in ids if id not in index), None):
        raise OtherPoolError(f"{truth} lacks sample {unknown}: it belongs to another pool")
    at = np.array([index[id] for id in ids])
    styles = table["styles"].to_pylist()
    return {
        "words": np.array(
            [np.mean([len(t.answer.split()) for t in sample.turns]) for sample in pool.samples()]
        ),
        "turns": pool.table["n_turns"].to_numpy().astype(np.float64),
        "difficulty": np.max([table[f"cap_{key}"].to_numpy()[at] for key in CAPABILITY_KEYS], axis=0).astype(
            np.float64
        ),
        "formatted": np.array([bool(FORMS & set(styles[i])) for i in at]),
        "wrong": table["wrong"].to_numpy()[at],
    }


_GRADES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "reward": lambda f: np.log1p(f["words"]) + FORMATTED * f["formatted"],
    "judge": lambda f: np.minimum(40 + 10 * np.log2(1 + f["words"]), 90) + 2 * f["difficulty"],
    "complexity": lambda f: f["turns"] * (1 + f["difficulty"]),
    "quality": lambda f: f["turns"] * np.minimum(6, 1 + np.log2(1 + f["words"])),
}
