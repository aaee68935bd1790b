"""The configuration and the class of the Hugging Face model that a blueprint describes."""

from typing import TYPE_CHECKING, Any

from training.convert.blueprint import Blueprint

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    from transformers import PreTrainedTokenizerBase


def model_config(blueprint: Blueprint, tokenizer: "PreTrainedTokenizerBase") -> tuple[Any, Any]:
    """The configuration and its class; the vocabulary grows if the tokens exceed the embedding's rows.

    New rows are filled up to a multiple of 64, as in the Hub's LLaVA-1.5.
    """
    import transformers

    needed, text = max(tokenizer.get_vocab().values()) + 1, blueprint.text
    if needed > text.vocab_size:
        text.vocab_size = -(-needed // 64) * 64
    config_class, model_class, own = {
        "llava": (transformers.LlavaConfig, transformers.LlavaForConditionalGeneration, _llava),
        "llava_next": (transformers.LlavaNextConfig, transformers.LlavaNextForConditionalGeneration, _next),
        "llava_onevision": (
            transformers.LlavaOnevisionConfig,
            transformers.LlavaOnevisionForConditionalGeneration,
            _onevision,
        ),
    }[blueprint.model_type]
    config = config_class(**_shared(blueprint, tokenizer), **own(blueprint, tokenizer))
    config.image_mode = blueprint.mode
    return config, model_class


def _shared(blueprint: Blueprint, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """What the three classes have in common."""
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    from training.models import token_id

    tower = blueprint.tower
    vision_class: Any = CLIPVisionConfig if tower.kind == "clip" else SiglipVisionConfig
    return {
        "vision_config": vision_class.from_dict(tower.config),
        "text_config": blueprint.text,
        "image_token_index": token_id(tokenizer, "<image>"),
        "vision_feature_layer": tower.feature_layer,
        "vision_feature_select_strategy": "default" if tower.class_tokens else "full",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": bool(blueprint.text.tie_word_embeddings),
    }


def _llava(blueprint: Blueprint, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    return {"image_seq_length": blueprint.tower.patches}


def _next(blueprint: Blueprint, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    return {**_llava(blueprint, tokenizer), "image_grid_pinpoints": blueprint.images.grids}


def _onevision(blueprint: Blueprint, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    from training.models import token_id

    images, side = blueprint.images, blueprint.tower.side
    own: dict[str, Any] = {"video_token_index": token_id(tokenizer, "<video>")}
    if not images.tiled:
        return {**own, "image_grid_pinpoints": [[side, side]]}
    limit = f"anyres_max_{images.limit(side)}"
    return {**own, "image_grid_pinpoints": images.grids, "vision_aspect_ratio": limit}
