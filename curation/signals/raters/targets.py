"""Training examples for scorer and styler, from a teacher's labels.

The scorer learns to answer each capability query with a digit, the styler to answer the style query with a
list. A sample is rendered once and its queries are branches of one prefix, so that a rater is trained in the
form in which it scores. Samples are split into training and held-out ones by a hash of the id: all queries of
a sample are on the same side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from curation.signals.raters.queries import Queries
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.draw import uniform
from training.one_turn import OneTurn

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from training.render import Encoded, Renderer

POSITIVE = 2
"""Lowest score of a positive sample, for class balance. 1 is not enough: label noise turns a 0 into a 1."""


@dataclass(frozen=True)
class Target:
    """The answers that a rater should give for one row: (query, answer) pairs. flat: see `Queries`."""

    row: int
    answers: tuple[tuple[str, str], ...]
    flat: OneTurn | bool = False


def split_labels(labels: pa.Table, holdout: float = 0.2, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """(training, held-out) labels; a sample is held out when the seeded hash of its id is below `holdout`.

    Raises ValueError for a holdout outside [0, 1).
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must be in [0, 1), got {holdout}")
    held = np.array([uniform("holdout", seed, id) < holdout for id in labels["id"].to_pylist()], dtype=bool)
    return labels.filter(pa.array(~held)), labels.filter(pa.array(held))


def scorer_targets(labels: pa.Table, queries: Queries) -> tuple[list[Target], dict[str, int]]:
    """One target for each labelled sample, with the capabilities that have a score; and counts.

    Counts: samples, answers, missing_answers (capabilities without a score), missing_samples (without any
    score).
    """
    columns = [labels[f"cap_{capability}"].to_pylist() for capability in CAPABILITY_KEYS]
    targets, missing = [], 0
    for row, scores in zip(labels["row"].to_pylist(), zip(*columns, strict=True), strict=True):
        pairs = zip(queries.capability, scores, strict=True)
        answers = tuple((query, str(score)) for query, score in pairs if score is not None)
        missing += len(scores) - len(answers)
        if answers:
            targets.append(Target(row, answers, queries.flat))
    counts = {
        "samples": len(targets),
        "answers": sum(len(t.answers) for t in targets),
        "missing_answers": missing,
        "missing_samples": len(labels) - len(targets),
    }
    return targets, counts


def styler_targets(labels: pa.Table, queries: Queries) -> tuple[list[Target], dict[str, int]]:
    """One target for each sample with at least one style; the answer lists the phrases in taxonomy order."""
    pairs = zip(labels["row"].to_pylist(), labels["styles"].to_pylist(), strict=True)
    targets = [
        Target(row, ((queries.style, queries.style_answer(styles)),), queries.flat)
        for row, styles in pairs
        if styles
    ]
    return targets, {"samples": len(targets), "missing_samples": len(labels) - len(targets)}


def repeat_factors(labels: pa.Table, threshold: float, seed: int = 0) -> np.ndarray:
    """How often each labelled sample is shown in one epoch, int64 [n]; rare capabilities more often.

    The repeat factor of LVIS (arXiv 1908.03195, section 5.1): the maximum over the sample's positive
    capabilities of max(1, sqrt(threshold / share of positives)), rounded up or down by a seeded draw.
    threshold 0 gives all ones.
    """
    scores = np.stack(
        [labels[f"cap_{capability}"].fill_null(0).to_numpy() for capability in CAPABILITY_KEYS], axis=1
    )
    positive = scores >= POSITIVE
    share = np.maximum(positive.mean(axis=0), 1 / max(len(labels), 1))
    factor = np.where(positive, np.sqrt(threshold / share), 1.0).max(axis=1, initial=1.0)
    draws = np.array([uniform("repeat", seed, id) for id in labels["id"].to_pylist()])
    return np.floor(factor + draws).astype(np.int64)


def balanced(targets: list[Target], labels: pa.Table, threshold: float = 0.1, seed: int = 0) -> list[Target]:
    """The targets, each repeated by its `repeat_factors` entry."""
    factors = dict(
        zip(labels["row"].to_pylist(), repeat_factors(labels, threshold, seed).tolist(), strict=True)
    )
    return [target for target in targets for _ in range(factors[target.row])]


class RaterExamples:
    """Targets as encoded training examples, rendered when they are read."""

    def __init__(self, pool: "Pool", renderer: "Renderer", targets: Sequence[Target]) -> None:
        self.pool, self.renderer, self.targets = pool, renderer, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> "Encoded":
        target = self.targets[index]
        return self.renderer.branches(self.pool[target.row], target.answers, target.flat)

    def __iter__(self) -> "Iterator[Encoded]":
        return (self[index] for index in range(len(self)))
