"""The vision tower: its shape, which of its layers are read, and where its weights are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.convert.source import ConversionError, directory, weight_files
from training.hub import HubError

KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    "openai/clip-vit-large-patch14-336": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
"""Shapes of whole pretrained towers: a checkpoint names its tower but does not describe it."""

TOWER_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)
"""Required settings of a tower: instead of an absent one, its class would silently use a default."""
_KINDS = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}


@dataclass(frozen=True)
class Tower:
    """`config`: values of CLIPVisionConfig or SiglipVisionConfig, as the converted model runs the tower.

    `kind`: "clip" or "siglip". `feature_layer`: index of the hidden state that the projector reads.
    `files`: weight files outside the checkpoint; empty if it stores its tower.
    """

    kind: str
    config: dict[str, Any]
    feature_layer: int
    files: list[Path] = field(default_factory=list)

    @property
    def side(self) -> int:
        """Side of a tile in pixels."""
        return self.config["image_size"]

    @property
    def patches(self) -> int:
        """Patches of a tile, each of which is a token."""
        return (self.side // self.config["patch_size"]) ** 2

    @property
    def class_tokens(self) -> int:
        """Tokens before those of the patches, which are not read: 1 in CLIP, none in SigLIP."""
        return int(self.kind == "clip")


def describe(name: str, shape: dict[str, Any] | None, select_layer: int = -2) -> Tower:
    """The tower `name` (a directory or Hub name), whose weights are elsewhere.

    shape: its configuration, if it is not a known one and cannot be looked up. select_layer: LLaVA's
    `mm_vision_select_layer`. LLaVA-NeXT drops the last layer and the head of SigLIP and reads what is then
    the last hidden state, whatever the setting; such a tower is built with a layer less.
    """
    whole = shape or KNOWN_TOWERS.get(name) or _published(name)
    model_type = whole.get("model_type") or _type_by_name(name)
    if model_type not in _KINDS:
        raise ConversionError(
            f"the vision tower {name!r} is a {model_type}: only SigLIP and CLIP towers can be converted"
        )
    if wrong := [key for key in TOWER_KEYS if not isinstance(whole.get(key), int)]:
        raise ConversionError(f"vision_config needs integers for {', '.join(wrong)}")
    whole = {**whole, "model_type": model_type}
    if _KINDS[model_type] == "clip":
        return Tower("clip", whole, select_layer)
    cut = {"num_hidden_layers": whole["num_hidden_layers"] - 1, "vision_use_head": False}
    return Tower("siglip", {**whole, **cut}, -1)


def _type_by_name(name: str) -> str:
    """As LLaVA-NeXT does where only a name is given."""
    return "clip_vision_model" if "clip" in name.lower().replace("siglip", "") else "siglip_vision_model"


def _published(name: str) -> dict[str, Any]:
    """The configuration of the tower in a directory or on the Hub, also as a part of a whole CLIP."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"the shape of the vision tower {name!r} is unknown ({error}): "
            "give vision_config, or vision_tower, its directory"
        ) from error
    return getattr(config, "vision_config", config).to_dict()


def stored_elsewhere(name: str, why: str) -> list[Path]:
    """The weight files of a tower's directory or Hub name; ConversionError, with `why` they are needed."""
    try:
        return weight_files(directory(name))
    except (ConversionError, HubError) as error:
        raise ConversionError(f"{why}, and {name!r} cannot be read ({error}): give vision_tower") from error
