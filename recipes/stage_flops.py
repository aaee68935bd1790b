"""FLOPs of the stages that a subset needs, by rule: what a stage computes, and how long its samples are.

rule = StageFlops(steps, places, lengths)     # steps: {hash: Step}; lengths(hash of a pool) -> Lengths
rule.of(step)                                 # FLOPs; 0.0: measured in seconds alone; None: see rule.notes

A training takes forward and backward passes (6 N for each token of a full training, 4 N and the adapters with
LoRA), a score by a model its forward passes (2 N), each with the image tokens, the vision tower and attention
(training/estimate). Clustering, sorting, selecting and reading files have no FLOPs here: they are in seconds.
What differs by sample and is not in the pool's table (generated text, choice questions) is counted at most.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from recipes.signal_flops import SIGNALS, rated
from recipes.stage_models import StageModels, Uncounted
from recipes.steps import Step

if TYPE_CHECKING:
    from training.estimate.lengths import Lengths
    from training.estimate.shapes import Shape

MEASURED = frozenset(
    ("source", "pool", "leaks", "clean", "bench", "validation", "held_out", "tokens", "probe_subsets")
) | {"labels", "labels_api", "fit_released", "select", "evaluate", "judge"}
"""Kinds of stage that are counted in seconds, and a teacher in money, alone."""


class StageFlops(StageModels):
    """The rule for the stages of one experiment.

    notes: why a stage has no FLOPs, each said once.
    """

    def __init__(
        self,
        steps: Mapping[str, Step],
        places: Mapping[str, str],
        lengths: Callable[[str, "Shape | None"], "Lengths"],
        *,
        exact: bool = True,
    ) -> None:
        super().__init__(steps, places, lengths, exact=exact)
        self.notes: list[str] = []
        self._known: dict[str, float | None] = {}

    def of(self, step: Step) -> float | None:
        """FLOPs of a stage; None where they cannot be counted, for the reason that `notes` gives."""
        if step.hash not in self._known:
            try:
                self._known[step.hash] = self._of(step)
            except Uncounted as error:
                self._known[step.hash] = None
                if (note := f"FLOPs of {step.name} are not counted: {error}") not in self.notes:
                    self.notes.append(note)
        return self._known[step.hash]

    def _of(self, step: Step) -> float:
        if step.kind in MEASURED:
            return 0.0
        if step.spec:
            return self._training(step)
        if step.kind == "answer":
            return self._answers(step)
        if step.producer not in SIGNALS:
            raise Uncounted("it is computed by code of your own")
        return SIGNALS[step.producer](self, step)

    def _training(self, step: Step) -> float:
        """Of a training on samples of mean length, as many as it saw."""
        assert step.spec is not None
        shape, lengths = self.shape(step), self.lengths(step)
        if step.kind == "fit_rater":
            lengths = rated(self, step, lengths)
        return step.seen * self.training_each(shape, step.spec, lengths)

    def _answers(self, step: Step) -> float:
        """Of a probe's answers to validation items: questions as long as the pool's samples."""
        from training.estimate.passes import forward, of_mean

        shape, lengths = self.shape(step), self.lengths(step)
        return of_mean(lengths, step.work, forward(shape, lengths, lengths.labels))
