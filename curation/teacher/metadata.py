"""The teacher of the mini world: the generator's record of each sample, with noise added.

It reads `truth.parquet` (id, one column cap_<capability> each, styles, wrong). Like a real teacher it makes
small errors, and by default it does not notice that an answer is wrong: it judges what the sample is about.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.pool.sample import Sample
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE
from curation.teacher.base import Cost
from curation.teacher.draw import random_words
from curation.teacher.rubric import Label, LabelError, missing_label

WRONG_PENALTY = 3
"""Points that every score of a sample with a wrong answer loses if the teacher notices."""


class MetadataTeacher:
    """Labels a sample from the generator's truth.

    noise: probability that a score moves by one point, up or down with equal chance, clipped to 0..5 (so a
        score of 0 or 5 moves half as often). Depends on (seed, id) alone: a sample gets the same label in any
        order and batch.
    knows_wrong: whether samples with a wrong answer lose `WRONG_PENALTY` points, each with probability
    `knows_rate`.
    """

    name = "metadata"

    def __init__(
        self,
        truth: Path,
        *,
        seed: int = 0,
        noise: float = 0.2,
        knows_wrong: bool = False,
        knows_rate: float = 0.7,
    ) -> None:
        if not (0 <= noise <= 1 and 0 <= knows_rate <= 1):
            raise LabelError(f"noise and knows_rate must be between 0 and 1, got {noise} and {knows_rate}")
        self.seed, self.noise, self.knows_wrong, self.knows_rate = seed, noise, knows_wrong, knows_rate
        table = _read_truth(truth)
        self._index = {id: i for i, id in enumerate(table["id"].to_pylist())}
        columns = [table[f"cap_{capability}"].to_numpy() for capability in CAPABILITY_KEYS]
        self._scores = np.stack(columns, axis=1).astype(np.int64)  # [samples, capabilities]
        self._styles = table["styles"].combine_chunks()
        self._wrong = table["wrong"].to_numpy()

    def label(self, samples: Iterable[Sample]) -> Iterator[Label]:
        """One label per sample; a sample that is not in the truth table gets a missing label."""
        for sample in samples:
            i = self._index.get(sample.id)
            yield (
                self._label(sample, i)
                if i is not None
                else missing_label(sample.row, sample.id, "not_in_truth")
            )

    def _label(self, sample: Sample, i: int) -> Label:
        # One uniform draw per capability moves its score; the next one decides whether a wrong answer is
        # noticed.
        draws = random_words("teacher", self.seed, sample.id) / 2**32
        moves, notices = draws[: len(CAPABILITY_KEYS)], draws[len(CAPABILITY_KEYS)]
        scores = self._scores[i]
        if self.knows_wrong and self._wrong[i] and notices < self.knows_rate:
            scores = np.maximum(scores - WRONG_PENALTY, 0)
        step = np.where(moves < self.noise / 2, -1, np.where(moves < self.noise, 1, 0))
        scores = np.clip(scores + step, 0, MAX_SCORE)
        return Label(
            sample.row,
            sample.id,
            dict(zip(CAPABILITY_KEYS, scores.tolist(), strict=True)),
            tuple(self._styles[i].as_py()),
        )

    def describe(self) -> dict[str, Any]:
        return {
            "teacher": self.name,
            "seed": self.seed,
            "noise": self.noise,
            "knows_wrong": self.knows_wrong,
            "knows_rate": self.knows_rate,
        }

    def cost(self) -> Cost:
        return Cost()


def _read_truth(path: Path) -> pa.Table:
    columns = ["id", *(f"cap_{capability}" for capability in CAPABILITY_KEYS), "styles", "wrong"]
    absent = sorted(set(columns) - set(pq.read_schema(path).names))
    if absent:
        raise LabelError(f"{path} is not a truth table: the columns {', '.join(absent)} are missing")
    return pq.read_table(path, columns=columns)
