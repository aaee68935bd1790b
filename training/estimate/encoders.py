"""FLOPs of encoders beside the vision-language models: CLIP and SigLIP, DINOv2, sentence encoders, text
models.

Encoder.of_checkpoint(folder).texts(tokens)       # FLOPs of the texts
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.estimate.shapes import ShapeError, headers

_ONCE = re.compile(
    r"(?:token|word|position|type)_embeddings?\b|embed_tokens|wte|wpe|(?:mask|cls|register)_tokens?$"
    r"|_projection\.|pooler|lm_head|classifier|score\."
)
"""Weights that are looked up, or multiplied once for each image or text, not with each of its tokens."""


@dataclass(frozen=True)
class Tower:
    """Matrices that every token (or patch) of a tower passes, and layers x width of its attention."""

    weights: int
    attention: int

    def flops(self, tokens: Any, *, causal: bool = False) -> float:
        """FLOPs of a forward pass over sequences of `tokens` int [n], all pairs of which see each other."""
        tokens = np.asarray(tokens, np.float64)
        pairs = tokens * (tokens + 1) / 2 if causal else tokens**2
        return float((2.0 * self.weights * tokens + 4.0 * self.attention * pairs).sum())


@dataclass(frozen=True)
class Encoder:
    """A model of one or two towers. `patches`: tokens of an image, class token too; `context`: of a text."""

    vision: Tower
    text: Tower
    patches: int
    context: int

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "Encoder":
        """From config.json and the headers of the safetensors files. Raises ShapeError."""
        config, shapes = headers(folder)
        counts = {"vision": 0, "text": 0}
        for name, shape in shapes:
            if len(shape) > 1 and not _ONCE.search(name):
                counts[_tower(name, config)] += math.prod(shape)
        vision, text = config.get("vision_config", config), config.get("text_config", config)
        size = (_cropped(folder) if vision is config else 0) or vision.get("image_size", 0)
        side = size // vision.get("patch_size", 1)
        return cls(
            Tower(counts["vision"], _attention(vision)),
            Tower(counts["text"], _attention(text)),
            side**2 + 1,
            text.get("max_position_embeddings", 1 << 30),
        )

    def images(self, count: float) -> float:
        """FLOPs of so many images, each seen once at the size of the encoder."""
        return count * self.vision.flops([self.patches])

    def texts(self, tokens: Any) -> float:
        """FLOPs of texts of so many tokens, int [n]; what is longer than the context is cut."""
        return self.text.flops(np.minimum(tokens, self.context))


def encoder_at(place: str) -> Encoder:
    """The encoder in a folder, or a published one by its name on the Hub. Raises ShapeError."""
    if Path(place).is_dir():
        return Encoder.of_checkpoint(Path(place))
    name = place.partition("@")[0]
    if name not in PUBLISHED_ENCODERS:
        raise ShapeError(f"{place} is not on this machine, and its shape is unknown")
    return PUBLISHED_ENCODERS[name]


def _blocks(layers: int, width: int, inner: int, patch: int = 0) -> Tower:
    return Tower(layers * (4 * width**2 + 2 * width * inner) + 3 * patch**2 * width, layers * width)


_NONE = Tower(0, 0)
PUBLISHED_ENCODERS = {
    "openai/clip-vit-large-patch14": Encoder(
        _blocks(24, 1024, 4096, 14), _blocks(12, 768, 3072), 16**2 + 1, 77
    ),
    "openai/clip-vit-large-patch14-336": Encoder(
        _blocks(24, 1024, 4096, 14), _blocks(12, 768, 3072), 24**2 + 1, 77
    ),
    "facebook/dinov2-base": Encoder(_blocks(12, 768, 3072, 14), _NONE, 16**2 + 1, 0),
    "sentence-transformers/all-MiniLM-L6-v2": Encoder(_NONE, _blocks(6, 384, 1536), 1, 256),
}
"""Encoders on the Hub that the shipped presets name, by the sizes in their configurations."""


def _cropped(folder: Path) -> int:
    """Pixels of an image's side as the processor crops it; 0 where it does not say.

    DINOv2 reads smaller images than its configuration's; a model of two towers reads what its own says.
    """
    file = Path(folder) / "preprocessor_config.json"
    size = json.loads(file.read_text()).get("crop_size", 0) if file.is_file() else 0
    return size.get("height", 0) if isinstance(size, dict) else size


def _tower(name: str, config: dict[str, Any]) -> str:
    """The tower of a weight: by its name in a model of two, else by what the model reads."""
    if "vision_config" in config and "text_config" in config:
        return "vision" if "vision" in name else "text"
    return "vision" if "patch_size" in config else "text"


def _attention(config: dict[str, Any]) -> int:
    layers, width = config.get("num_hidden_layers"), config.get("hidden_size")
    if layers is None or width is None:
        raise ShapeError(f"the configuration of a {config.get('model_type')} names no layers and width")
    return layers * width
