"""Checkpoints that LLaVA's or LLaVA-NeXT's own code wrote.

Their classes (LlavaLlama-, LlavaMistral-, LlavaQwenForCausalLM: a tower, a two-layer projector, a language
model) compute the same as a class of Transformers (see `training.convert.blueprint`), under other parameter
names. Weights are memory-mapped, one file at a time, and keep their dtype; only an enlarged embedding is
copied. A weight without a parameter, or a parameter without a weight, is an error. `conversion.json` lists
the weights that LLaVA stores but never uses.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.blueprint import Blueprint
from training.convert.images import Images, read_images
from training.convert.language import LANGUAGES, problems, text_config, with_defaults
from training.convert.source import (
    ConversionError,
    directory,
    read_config,
    read_tokenizer,
    stores,
    weight_files,
)
from training.convert.tower import Tower, describe, stored_elsewhere
from training.convert.weights import LLAVA_TOWER, Stream, llava_names, tower_names
from training.convert.write import write

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    from transformers import PreTrainedTokenizerBase

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("spatial_unpad", "flat", None),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False, None),
    "mm_vision_select_feature": ("patch", None),
}
"""Settings that change the computation -> the values that Transformers' classes implement."""


def is_llava_next_layout(path: str | Path) -> bool:
    """Whether a checkpoint directory has the layout of LLaVA or LLaVA-NeXT.

    FileNotFoundError without a config.json.
    """
    settings = json.loads((Path(path) / "config.json").read_text())
    known = set(settings.get("architectures") or []) & LANGUAGES.keys()
    return bool(known) or "mm_vision_tower" in settings


def convert_llava_next(
    src: str | Path,
    out: Path,
    *,
    vision_config: dict[str, Any] | None = None,
    vision_tower: str | Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    image_aspect: str | None = None,
    grids: Any = None,
    image_mode: str | None = None,
) -> Path:
    """Write the checkpoint `src` (directory or Hub name) in Hugging Face layout to the directory `out`.

    vision_config: configuration values of the whole pretrained tower, if it is not a known one and cannot be
        looked up.
    vision_tower: directory or Hub name of the tower, instead of the one that the checkpoint names. Weights
        that the checkpoint stores, perhaps trained ones, come before the tower's own.
    tokenizer: replaces the one beside the weights; `<image>` (and for OneVision `<video>`) is added to it.
        The embedding gets more rows only if the tokens exceed the present ones (each a copy of the mean row;
        a multiple of 64 in all).
    image_aspect: replaces the checkpoint's `image_aspect_ratio`: "pad", "crop" (or "square"), "anyres",
        "anyres_max_N".
    grids: replaces its `image_grid_pinpoints`, in any of LLaVA's notations (width first): see
        `training.convert.images.read_grids`.
    image_mode: how the images of the checkpoint are read from now on, if not as the aspect says; "base" is
        one padded tile for LLaVA-OneVision (how mmSSR's code runs its scorer, which was trained with anyres).
    Raises ConversionError, or HubError when `src` is neither a directory nor found on the Hub.
    """
    source, out = directory(src), Path(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise ConversionError(f"{out} is inside the source {source}: choose another directory")
    settings, kind = _settings(source)
    tower = _tower(settings, vision_config, vision_tower)
    images = _images(settings, tower, image_aspect, grids)
    blueprint = Blueprint(
        text_config(settings, kind), tower, settings.get("mm_patch_merge_type") or "flat", images, image_mode
    )
    decided, files = blueprint.record(), weight_files(source)
    elsewhere = [] if stores(files, LLAVA_TOWER) else _tower_files(source, settings, vision_tower)
    record = {
        "source": str(src),
        "vision_tower": str(elsewhere[0].parent) if elsewhere else None,
        **decided,
    }
    return write(
        blueprint,
        tokenizer or read_tokenizer(source),
        lambda model: [Stream(files, llava_names(model)), Stream(elsewhere, tower_names(model))],
        out,
        record,
    )


def _settings(source: Path) -> tuple[dict[str, Any], str]:
    """config.json, checked to describe what Transformers can represent; kind of its language model."""
    settings = read_config(source)
    wrong, architectures = [], settings.get("architectures")
    kind = LANGUAGES.get(architectures[0]) if isinstance(architectures, list) and architectures else None
    if kind is None:
        wrong.append(f"architectures {architectures} (known: {', '.join(LANGUAGES)})")
    wrong += [
        f"{key} {settings.get(key)!r}" for key, values in SUPPORTED.items() if settings.get(key) not in values
    ]
    settings = with_defaults(settings, kind or "")
    wrong += problems(settings)
    if wrong or kind is None:
        path = source / "config.json"
        raise ConversionError(f"{path} does not describe a model that can be converted: {'; '.join(wrong)}")
    return settings, kind


def _tower(settings: dict[str, Any], shape: dict[str, Any] | None, given: str | Path | None) -> Tower:
    layer = settings.get("mm_vision_select_layer", -2)
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise ConversionError(f"mm_vision_select_layer must be an integer, got {layer!r}")
    return describe(str(given or settings.get("mm_vision_tower")), shape, layer)


def _tower_files(source: Path, settings: dict[str, Any], given: str | Path | None) -> list[Path]:
    name = str(given or settings.get("mm_vision_tower"))
    return stored_elsewhere(name, f"{source} does not store the weights of its vision tower")


def _images(settings: dict[str, Any], tower: Tower, aspect: str | None, grids: Any) -> Images:
    grids = settings.get("image_grid_pinpoints") if grids is None else grids
    return read_images(aspect or settings.get("image_aspect_ratio"), grids, tower.side)
