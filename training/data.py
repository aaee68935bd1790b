"""What a training knows of its examples before it reads them: lengths, kinds, costs, names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.flops import Shape, image_patches
from training.listed import check_stored
from training.packing import PackRule
from training.plan import Rejected
from training.render import Encoded, Renderer
from training.spec import FitSpec
from training.token_store import StoredExamples


class Names(Sequence[str]):
    """The name of each example, read when it is asked for; lazy examples have numbers for names."""

    def __init__(self, examples: Sequence[Any], lazy: bool) -> None:
        self.examples, self.lazy = examples, lazy

    def __len__(self) -> int:
        return 0 if self.lazy else len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        return str(index) if self.lazy else self.examples.name(index)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Data:
    """The examples of a training; arrays are None where lazy data does not say it.

    `lengths` int [n]: tokens, for lazy data in any unit. `has_image` bool [n]. `costs` float64 [n]: FLOPs.
    """

    examples: Sequence[Encoded]
    lazy: bool
    rejected: Sequence[Rejected] = ()
    lengths: np.ndarray | None = None
    has_image: np.ndarray | None = None
    costs: np.ndarray | None = None

    @classmethod
    def of(
        cls, spec: FitSpec, examples: Sequence[Encoded], renderer: Renderer, shape: Callable[[], Shape]
    ) -> "Data":
        """Of a store's examples, or of lazy data. Raises what `check_stored` raises."""
        if not isinstance(examples, StoredExamples):
            lengths = examples.lengths() if hasattr(examples, "lengths") else None
            return cls(examples, True, lengths=lengths)
        check_stored(spec, examples, renderer)
        return cls(
            examples,
            False,
            examples.rejected,
            examples.lengths,
            examples.n_images > 0,
            costs_of(spec, examples, shape()),
        )

    @property
    def names(self) -> Names:
        """The name of each example."""
        return Names(self.examples, self.lazy)

    def need(self, name: str, what: str) -> np.ndarray:
        """An array that a setting needs. Raises ValueError where lazy data lacks it."""
        if (found := getattr(self, name)) is None:
            having = " or lazy data with a method lengths()" if name == "lengths" else ""
            raise ValueError(f"{what} needs a list of examples, those of a token store,{having}".rstrip(","))
        return found

    def pack_rule(self, cap: int) -> PackRule:
        """How to pack. Raises ValueError for lazy data, whose lengths in tokens are unknown."""
        return PackRule(self.need("lengths", "pack_tokens"), self.need("costs", "pack_tokens"), cap)


def costs_of(spec: FitSpec, examples: StoredExamples, shape: Shape) -> np.ndarray:
    """FLOPs of training on each example, float64 [n], as training/flops.py counts them."""
    # OneVision appends a newline to each image, which is no patch and must not count as another tile.
    added = examples.n_images if shape.tile else 0
    patches = image_patches(shape, examples.image_tokens - added, examples.n_images)
    return shape.training(
        examples.lengths,
        examples.labels_count,
        patches,
        examples.n_images,
        trained=spec.trained(),
        lora=spec.lora.parts if spec.lora else (),
        rank=spec.lora.r if spec.lora else 0,
    )
