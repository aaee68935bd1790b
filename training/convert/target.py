"""The Hugging Face model that a checkpoint becomes: its class, configuration, processor and chat template.

| tower and merge type | class | image aspects |
| --- | --- | --- |
| `flat` (LLaVA-1.5) | LlavaForConditionalGeneration | pad, crop |
| `spatial_unpad`, CLIP (LLaVA-NeXT) | LlavaNextForConditionalGeneration | anyres |
| `spatial_unpad`, SigLIP (LLaVA-OneVision) | LlavaOnevisionForConditionalGeneration | pad, crop, anyres |
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.images import Images
from training.convert.source import ConversionError
from training.convert.tower import Tower
from training.convert.weights import Stream, fill

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    from collections.abc import Callable

    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parents[1] / "templates"
IMAGE_MODES = {
    "llava": ("pad", "crop"),
    "llava_next": ("anyres",),
    "llava_onevision": ("base", "crop", "anyres"),
}
"""Class -> the values of `image_mode` that it knows; "base" is one padded tile and a newline."""


@dataclass(frozen=True)
class Blueprint:
    """All that is decided before weights are read.

    `text`: configuration of the language model. `merge`: LLaVA's `mm_patch_merge_type`, "flat" or
    "spatial_unpad". `image_mode`: None is what the aspect asks for.
    """

    text: "PretrainedConfig"
    tower: Tower
    merge: str
    images: Images
    image_mode: str | None = None

    @property
    def model_type(self) -> str:
        """`config.model_type` of the class; ConversionError if none computes the same."""
        if self.merge == "flat":
            if self.images.tiled:
                raise ConversionError(
                    f"the image aspect {self.images.aspect} needs mm_patch_merge_type spatial_unpad: "
                    "a model without image_newline takes pad or crop"
                )
            return "llava"
        if self.tower.kind == "siglip":
            return "llava_onevision"
        images, side = self.images, self.tower.side
        if not images.tiled or images.limit(side) < images.most_tiles(side):
            raise ConversionError(
                f"a LLaVA-NeXT with a CLIP tower needs the image aspect anyres, not {images.aspect}: "
                "Transformers' class tiles every image and scales no features down"
            )
        return "llava_next"

    @property
    def mode(self) -> str:
        """The `image_mode` of the checkpoint."""
        known = IMAGE_MODES[self.model_type]
        own = "anyres" if self.images.tiled else self.images.aspect
        chosen = self.image_mode or own
        chosen = "base" if chosen == "pad" and "base" in known else chosen
        if chosen not in known or (chosen == "anyres" and not self.images.tiled):
            raise ConversionError(
                f"image_mode {chosen} does not fit {self.model_type} with the image aspect "
                f"{self.images.aspect}: it must be one of {', '.join(known)}"
            )
        return chosen

    def record(self) -> dict[str, str]:
        """What was decided, for conversion.json. Raises ConversionError if no class computes the same."""
        return {
            "image_aspect": self.images.aspect,
            "model": self.model_type,
            "image_mode": self.mode,
        }


def write(
    blueprint: Blueprint,
    tokenizer: "PreTrainedTokenizerBase",
    streams: "Callable[[Any], list[Stream]]",
    out: Path,
    record: dict[str, Any],
    made: "dict[str, torch.Tensor] | None" = None,
) -> Path:
    """Build the model, fill it, and save the checkpoint with `conversion.json`, which begins with `record`.

    `streams`: from the model on the meta device to the weights that fill it. `made`: see `weights.fill`.
    """
    import torch

    from training.models import quiet, save_checkpoint

    with quiet():
        _add_tokens(tokenizer, blueprint.model_type)
        rows = blueprint.text.vocab_size
        config, model_class = _config(blueprint, tokenizer)
        # On the meta device nothing is allocated: each parameter then becomes its memory-mapped weight.
        with torch.device("meta"):
            model = model_class(config)
        filled = fill(model, streams(model), rows, str(record["source"]), made)
        processor = _processor(blueprint, config, tokenizer)
    ends = [tokenizer.eos_token_id]
    if "<|eot_id|>" in tokenizer.get_vocab():  # Llama 3 ends a turn, not the text
        ends = sorted({*ends, tokenizer.get_vocab()["<|eot_id|>"]})
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    config.text_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id = tokenizer.pad_token_id
    out.mkdir(parents=True, exist_ok=True)
    (out / "conversion.json").write_text(json.dumps({**record, **filled}, indent=1) + "\n")
    return save_checkpoint(model.eval(), processor, out)


def _add_tokens(tokenizer: "PreTrainedTokenizerBase", model_type: str) -> None:
    """`<image>`, for OneVision `<video>`, and `<pad>` if there is none, as in the Hub's checkpoints."""
    from transformers import AddedToken

    if tokenizer.eos_token_id is None:
        raise ConversionError("the tokenizer needs an end token")
    needed = ["<image>", "<video>"] if model_type == "llava_onevision" else ["<image>"]
    absent = [token for token in needed if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in absent], special_tokens=True
    )
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})


def _config(blueprint: Blueprint, tokenizer: "PreTrainedTokenizerBase") -> tuple[Any, Any]:
    """The configuration and its class; more words if the tokens exceed the embedding's rows."""
    import transformers

    from training.models import token_id

    needed, tower, text = max(tokenizer.get_vocab().values()) + 1, blueprint.tower, blueprint.text
    if needed > text.vocab_size:
        text.vocab_size = -(-needed // 64) * 64
    vision_class = transformers.CLIPVisionConfig if tower.kind == "clip" else transformers.SiglipVisionConfig
    shared = {
        "vision_config": vision_class.from_dict(tower.config),
        "text_config": text,
        "image_token_index": token_id(tokenizer, "<image>"),
        "vision_feature_layer": tower.feature_layer,
        "vision_feature_select_strategy": "default" if tower.class_tokens else "full",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": bool(text.tie_word_embeddings),
    }
    patches = (tower.side // tower.config["patch_size"]) ** 2
    if blueprint.model_type == "llava":
        config = transformers.LlavaConfig(**shared, image_seq_length=patches)
        model_class: Any = transformers.LlavaForConditionalGeneration
    elif blueprint.model_type == "llava_next":
        grids = blueprint.images.grids
        config = transformers.LlavaNextConfig(**shared, image_seq_length=patches, image_grid_pinpoints=grids)
        model_class = transformers.LlavaNextForConditionalGeneration
    else:
        config = transformers.LlavaOnevisionConfig(
            **shared,
            video_token_index=token_id(tokenizer, "<video>"),
            image_grid_pinpoints=_onevision_grids(blueprint),
            vision_aspect_ratio=f"anyres_max_{_onevision_limit(blueprint)}",
        )
        model_class = transformers.LlavaOnevisionForConditionalGeneration
    config.image_mode = blueprint.mode
    return config, model_class


def _onevision_grids(blueprint: Blueprint) -> list[list[int]]:
    return blueprint.images.grids or [[blueprint.tower.side] * 2]


def _onevision_limit(blueprint: Blueprint) -> int:
    return blueprint.images.limit(blueprint.tower.side) if blueprint.images.tiled else 1


def _processor(blueprint: Blueprint, config: Any, tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The processor of the class, with the tower's normalisation, the grids and the chat template."""
    import transformers

    from training.models import onevision_processor

    tower, template = blueprint.tower, chat_template(blueprint.text.model_type, tokenizer)
    patch, side = tower.config["patch_size"], tower.side
    if blueprint.model_type == "llava_onevision":
        processor = onevision_processor(tokenizer, side, patch, config.image_grid_pinpoints, template)
        processor.vision_aspect_ratio = config.vision_aspect_ratio
        return processor
    options: dict[str, Any] = {
        "patch_size": patch,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": tower.class_tokens,
        "chat_template": template,
    }
    square = {"height": side, "width": side}
    if blueprint.model_type == "llava_next":
        images: Any = transformers.LlavaNextImageProcessor(
            image_grid_pinpoints=blueprint.images.grids, size={"shortest_edge": side}, crop_size=square
        )
        return transformers.LlavaNextProcessor(images, tokenizer, **options)
    pixels: dict[str, Any] = {"size": {"shortest_edge": side}}
    if tower.kind == "siglip":  # its own processor resizes to the square instead of cropping it
        pixels = {"size": square, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = transformers.LlavaImageProcessor(crop_size=square, do_pad=blueprint.mode == "pad", **pixels)
    return transformers.LlavaProcessor(images, tokenizer, **options)


def chat_template(model_type: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The template that LLaVA trains such a language model with, answers marked; by the tokenizer's marks.

    ChatML's: LLaVA-NeXT's for Qwen; Llama 3's; Mistral's; else Vicuna's (LLaVA's "v1", with its system
    sentence).
    """
    vocabulary = tokenizer.get_vocab()
    if "<|im_start|>" in vocabulary:
        name = "llava_next_qwen"
    elif "<|start_header_id|>" in vocabulary:
        name = "llava_next_llama_3"
    else:
        name = "llava_next_mistral" if model_type == "mistral" else "llava_v1"
    return (TEMPLATES / f"{name}.jinja").read_text()
