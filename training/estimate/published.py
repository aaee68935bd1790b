"""Published models by name: what their configurations say about shapes, and what an image costs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from training.estimate.shapes import Shape, ShapeError

_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


@dataclass(frozen=True)
class Published:
    """A model on the Hub, and the tokens of an image of 640 x 480 pixels."""

    hub: str
    config: Mapping[str, Any]
    image_tokens: int


def _llama(hidden: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return _decoder("llama", hidden, inner, layers, heads, heads, 32064, tied=False)


def _decoder(
    kind: str, hidden: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int, *, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


def _llava(hub: str, text: dict[str, Any]) -> Published:
    config = {"model_type": "llava", "vision_config": _CLIP, "text_config": text}
    return Published(hub, config | {"tie_word_embeddings": False}, 576)


def _onevision(hub: str, text: dict[str, Any]) -> Published:
    """A 640 x 480 image is the whole picture and 2 x 2 tiles (anyres), 54 x 41 tokens of which are kept."""
    config = {"model_type": "llava_onevision", "vision_config": _SIGLIP, "text_config": text}
    return Published(hub, config | {"tie_word_embeddings": text["tie_word_embeddings"]}, 729 + 54 * 40 + 40)


def _qwen(hub: str, text: dict[str, Any]) -> Published:
    """A 640 x 480 image is 46 x 34 patches of 14 pixels, four of which make a token."""
    rotary = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = {
        "model_type": "qwen2_5_vl",
        "vision_config": {**_QWEN_VISION, "out_hidden_size": text["hidden_size"]},
        "text_config": {**text, "model_type": "qwen2_5_vl_text", "rope_parameters": rotary},
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    return Published(hub, config, 23 * 17)


PUBLISHED = {
    "llava15_7b": _llava("llava-hf/llava-1.5-7b-hf", _llama(4096, 11008, 32, 32)),
    "llava15_13b": _llava("llava-hf/llava-1.5-13b-hf", _llama(5120, 13824, 40, 40)),
    "onevision_05b": _onevision(
        "llava-hf/llava-onevision-qwen2-0.5b-si-hf",
        _decoder("qwen2", 896, 4864, 24, 14, 2, 152000, tied=True),
    ),
    "onevision_7b": _onevision(
        "llava-hf/llava-onevision-qwen2-7b-si-hf",
        _decoder("qwen2", 3584, 18944, 28, 28, 4, 152128, tied=False),
    ),
    "onevision_72b": _onevision(
        "llava-hf/llava-onevision-qwen2-72b-si-hf",
        _decoder("qwen2", 8192, 29568, 80, 64, 8, 152128, tied=False),
    ),
    "qwen25vl_3b": _qwen(
        "Qwen/Qwen2.5-VL-3B-Instruct", _decoder("qwen2", 2048, 11008, 36, 16, 2, 151936, tied=True)
    ),
    "qwen25vl_7b": _qwen(
        "Qwen/Qwen2.5-VL-7B-Instruct", _decoder("qwen2", 3584, 18944, 28, 28, 4, 152064, tied=False)
    ),
}
"""Names of the command line; the shapes are those of the checkpoints on the Hub."""


def published_of(name: str) -> Published:
    """A published model by its name here or on the Hub. Raises ValueError."""
    for key, model in PUBLISHED.items():
        if name in (key, model.hub):
            return model
    raise ValueError(f"model must be one of {', '.join(PUBLISHED)}, got {name!r}")


@cache
def shape_of(name: str) -> Shape:
    """The shape of a published model. Raises ValueError."""
    return Shape.of_config(name, published_of(name).config)


def image_tokens(shape: Shape) -> int:
    """Tokens of an image of 640 x 480 pixels. Raises ShapeError.

    With one tile an image (image mode "base", LLaVA-1.5) they follow from the tower; else they are those of
    the published models of the same type.
    """
    tile, config = shape.sizes.tile, shape.config
    if config.get("image_mode") == "base":
        return tile + 1  # OneVision appends a newline to each image
    if config["model_type"] == "llava":
        return tile
    for model in PUBLISHED.values():
        if model.config["model_type"] == config["model_type"]:
            return model.image_tokens
    raise ShapeError(f"{shape.name}: what an image costs a {config['model_type']} is not known here")
