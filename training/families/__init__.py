"""Model families: one file for each, and which family a config or a processor belongs to.

family = of_config(model.config)            # or of_processor(processor)
family.part_of("model.vision_tower.encoder.layers.0.mlp.fc1.weight")      # "vision"
"""

from typing import Any

from training.families.base import PARTS, Family
from training.families.internvl import InternVl
from training.families.llava import Llava
from training.families.llava_next import LlavaNext
from training.families.llava_onevision import LlavaOnevision
from training.families.qwen2_5_vl import Qwen25Vl
from training.families.qwen3_vl import Qwen3Vl
from training.families.smolvlm import SmolVlm

__all__ = ["FAMILIES", "PARTS", "Family", "UnknownFamily", "find", "of_config", "of_processor"]

FAMILIES: tuple[Family, ...] = (
    Llava(),
    LlavaNext(),
    LlavaOnevision(),
    Qwen25Vl(),
    Qwen3Vl(),
    InternVl(),
    SmolVlm(),
)


class UnknownFamily(ValueError):
    """A model that no family of this package describes; the message says what to do."""


def find(model_type: str) -> Family | None:
    """The family of a `config.model_type`; None if there is none."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def of_config(config: Any) -> Family:
    """The family of a model's config. Raises UnknownFamily."""
    return find(config.model_type) or _unknown(f"the model type {config.model_type!r}")


def of_processor(processor: Any) -> Family:
    """The family of a processor, by the name of its class or of a base class. Raises UnknownFamily."""
    names = {each.__name__ for each in type(processor).__mro__}
    found = (family for family in FAMILIES if names.intersection(family.processors))
    return next(found, None) or _unknown(f"the processor class {type(processor).__name__!r}")


def _unknown(what: str) -> Family:
    known = ", ".join(family.name for family in FAMILIES)
    raise UnknownFamily(
        f"no model family knows {what}: families are {known}; add a file to training/families for another"
    )
