"""What a stage reads, as its FLOPs need it: shapes of models, lengths of samples, a tokenizer's folder."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.steps import Step

if TYPE_CHECKING:
    from training.estimate.encoders import Encoder
    from training.estimate.lengths import Lengths
    from training.estimate.shapes import Shape

MODELS = ("model_dir", "base", "model", "served")
"""Inputs that name the model of a stage, the first that is there."""


class Uncounted(ValueError):
    """The FLOPs of a stage cannot be counted, and why."""


class StageModels:
    """The models and pools of the stages of one experiment.

    steps: all stages by hash. places: the path or Hub name of models from outside, by hash. lengths: of the
    samples of a pool, by its hash; the shape says what an image costs where the pool is not built, None: its
    tokens do not matter. exact: queries are counted by the model's own template and tokenizer, which takes
    seconds to load.
    """

    def __init__(
        self,
        steps: Mapping[str, Step],
        places: Mapping[str, str],
        lengths: Callable[[str, "Shape | None"], "Lengths"],
        *,
        exact: bool = True,
    ) -> None:
        self.steps, self.places, self._lengths, self.exact = steps, places, lengths, exact

    @staticmethod
    def training_each(shape: "Shape", spec: Any, lengths: "Lengths") -> float:
        """Mean FLOPs of training once on a sample."""
        from training.estimate.cost import flops

        kept = lengths.within(spec.max_length, spec.too_long)
        if not len(kept):
            raise Uncounted("no sample is short enough to train on")
        return flops(shape, spec, kept) / len(kept)

    def input(self, step: Step, name: str) -> str:
        """The hash of an input."""
        value = step.inputs[name]
        return value if isinstance(value, str) else value[0]

    def lengths(self, step: Step) -> "Lengths":
        """Of the samples of the pool that a stage reads, or the stage that made its model."""
        own = step
        while "pool" not in own.inputs:
            above = next((key for key in MODELS if key in own.inputs), None)
            if above is None or self.input(own, above) not in self.steps:
                raise Uncounted("it reads no pool")
            own = self.steps[self.input(own, above)]
        return self._lengths(self.input(own, "pool"), self.shape(step))

    def texts(self, step: Step) -> "Lengths":
        """Of the samples of the pool that an encoder reads, whose image tokens do not matter."""
        return self._lengths(self.input(step, "pool"), None)

    def shape(self, step: Step) -> "Shape":
        """The shape of the vision-language model that a stage runs or trains. Raises Uncounted."""
        name = next((name for name in MODELS if name in step.inputs), None)
        if name is None:
            raise Uncounted("a server computes it, whose model is not known here")
        return self.shape_of(self.input(step, name))

    def shape_of(self, digest: str) -> "Shape":
        """The shape of a model by the hash of an input: one from outside, or what a stage makes."""
        from training.estimate.shapes import Shape, ShapeError

        if digest in self.places:
            return _shape_at(self.places[digest])
        step = self.steps.get(digest)
        if step is None:
            raise Uncounted("its model is not among the stages of this experiment")
        if step.folder and step.kind == "fit_released":
            try:
                return Shape.of_checkpoint(step.folder)
            except ShapeError as error:
                raise Uncounted(str(error)) from error
        return self.shape(step)

    def encoder(self, step: Step, key: str = "model_dir") -> "Encoder":
        """The encoder, or text model, that a stage runs. Raises Uncounted."""
        from training.estimate.encoders import encoder_at
        from training.estimate.shapes import ShapeError

        digest = self.input(step, key)
        try:
            place = self.places[digest]
            return encoder_at(str(folder_of(place) or place))
        except KeyError:
            raise Uncounted("its encoder is not among what this experiment names") from None
        except ShapeError as error:
            raise Uncounted(str(error)) from error

    def place(self, step: Step) -> Path | None:
        """The folder of a stage's model, whose tokenizer it has; None where it is not on this machine."""
        digest = step.hash
        while own := self.steps.get(digest):
            name = next((name for name in MODELS if name in own.inputs), None)
            if name is None:
                return None
            digest = self.input(own, name)
        return folder_of(self.places[digest]) if digest in self.places else None


@cache
def _shape_at(place: str) -> "Shape":
    """The shape of a checkpoint by its folder or its name on the Hub. Raises Uncounted."""
    from training.estimate.published import shape_of
    from training.estimate.shapes import Shape, ShapeError

    folder = folder_of(place)
    try:
        return Shape.of_checkpoint(folder) if folder else shape_of(place.partition("@")[0])
    except ShapeError as error:
        raise Uncounted(str(error)) from error
    except ValueError:
        raise Uncounted(f"{place} is not on this machine, and its shape is unknown") from None


def folder_of(place: str) -> Path | None:
    """The folder of a path, or of a name whose files are on this machine already; nothing is fetched."""
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, _, revision = place.partition("@")
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None
