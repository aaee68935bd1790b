"""The processor that a blueprint describes, and its chat template."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.blueprint import Blueprint

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    from transformers import PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parents[1] / "templates"


def make_processor(blueprint: Blueprint, config: Any, tokenizer: "PreTrainedTokenizerBase") -> Any:
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
