"""The shapes of a model's weights, its parts and its blocks, without loading a weight.

shape = Shape.of_checkpoint(Path("curation/mini/base"))
shape.parameters("language")
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.flops import Part as Sized
from training.flops import Shape as Sizes
from training.spec import FitSpec, Part

PARTS: tuple[Part, ...] = ("vision", "projector", "language")
"""In the order of the data: the gradients of a part pass through the parts behind it."""
_BLOCK = re.compile(r"\.(?:layers|blocks|layer)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed_tokens|position_embedding|pos_embed|class_embedding")


class ShapeError(ValueError):
    """A checkpoint whose shapes cannot be read."""


@dataclass(frozen=True)
class Weight:
    """One parameter: its name, shape and part, and whether LoRA on that part adapts it."""

    name: str
    shape: tuple[int, ...]
    part: Part
    adaptable: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def multiplies(self) -> bool:
        """Whether it is a matrix (or a patch embedding) that every token of its part is multiplied with."""
        return len(self.shape) > 1 and not _EMBEDDING.search(self.name) and not self.is_head

    @property
    def is_head(self) -> bool:
        """Whether it is the language model's head, which only labelled tokens are multiplied with."""
        return self.name.endswith("lm_head.weight")


@dataclass(frozen=True)
class Blocks:
    """The equal transformer blocks of a part.

    `hidden`, `query` (heads x head size), `key` (key-value heads x head size) and `inner` are widths, `heads`
    the number of attention heads; `gated`: the MLP is SwiGLU with RMSNorm, else two layers with LayerNorm.
    """

    count: int
    hidden: int
    query: int
    key: int
    inner: int
    heads: int
    gated: bool


@dataclass(frozen=True)
class Shape:
    """A model by the shapes of its weights (tied ones once) and its configuration."""

    name: str
    weights: tuple[Weight, ...]
    config: Mapping[str, Any]

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "Shape":
        """From config.json and the headers of the safetensors files; torch is not imported.

        Raises ShapeError when one of them is missing or cannot be read.
        """
        config, shapes = headers(folder)
        return cls.of_shapes(Path(folder).name, shapes, config)

    @classmethod
    def of_config(cls, name: str, config: Mapping[str, Any]) -> "Shape":
        """From a configuration, by building the model without memory (torch's meta device)."""
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        from training.models import quiet

        fields = {key: value for key, value in config.items() if key != "model_type"}
        with quiet(), torch.device("meta"):
            full = AutoConfig.for_model(config["model_type"], **fields)
            model = AutoModelForImageTextToText.from_config(full)
        shapes = [(key, tuple(weight.shape)) for key, weight in model.named_parameters()]
        return cls.of_shapes(name, shapes, full.to_dict())

    @classmethod
    def of_shapes(
        cls, name: str, shapes: Iterable[tuple[str, tuple[int, ...]]], config: Mapping[str, Any]
    ) -> "Shape":
        """From (name, shape) of each parameter. Raises ShapeError for a model of no known family."""
        family = _family(name, config)
        weights = tuple(_weight(family, key, shape) for key, shape in shapes)
        return cls(name, weights, config)

    def parameters(self, *parts: Part) -> int:
        """Number of parameters of the parts; of all without any."""
        return sum(weight.size for weight in self.weights if weight.part in (parts or PARTS))

    def trained(self, spec: FitSpec) -> dict[Part, int]:
        """Number of parameters that a training updates, by part: adapters, or what is not frozen."""
        counts = dict.fromkeys(PARTS, 0)
        for weight in self.weights:
            counts[weight.part] += trained_elements(weight, spec)
        return counts

    def flows(self, spec: FitSpec, part: Part) -> bool:
        """Whether gradients pass through a part: it is trained, or a part below it is (vision is lowest)."""
        trained = self.trained(spec)
        return any(trained[below] for below in PARTS[: PARTS.index(part) + 1])

    @property
    def vocabulary(self) -> int:
        """Rows of the language model's embedding, which is also the width of its head."""
        return self._embedding.shape[0]

    @property
    def hidden(self) -> int:
        """Width of the language model."""
        return self._embedding.shape[1]

    @property
    def _embedding(self) -> Weight:
        return next(weight for weight in self.weights if weight.name.endswith("embed_tokens.weight"))

    @cached_property
    def sizes(self) -> Sizes:
        """What its FLOPs depend on."""
        head = self.vocabulary * self.hidden
        language, vision = self._sizes("language"), self._sizes("vision")
        return Sizes(language, Sized(head), vision, self._sizes("projector"), self._tile, self._merge)

    def _sizes(self, part: Part) -> Sized:
        inside = [weight for weight in self.weights if weight.part == part]
        matrices = sum(weight.size for weight in inside if weight.multiplies)
        sides = sum(sum(weight.shape) for weight in inside if weight.adaptable)
        if part == "projector":
            return Sized(matrices, sides)
        blocks = self.blocks(part)
        return Sized(matrices, sides, blocks.count * blocks.query)

    @property
    def _tile(self) -> int:
        """Patches of a tile; 0 for a tower of whole images (Qwen). CLIP's table also has a class token."""
        table = [weight for weight in self.weights if re.search(r"\.position_embeddings?\b", weight.name)]
        return math.isqrt(table[0].shape[-2]) ** 2 if table else 0

    @property
    def _merge(self) -> int:
        """Patches of the tower that become one image token."""
        vision = self.config.get("vision_config", {})
        ratio = self.config.get("downsample_ratio")
        side = vision.get("spatial_merge_size") or (round(1 / ratio) if ratio else None)
        return (side or self.config.get("scale_factor") or 1) ** 2

    def blocks(self, part: Part) -> Blocks:
        """The blocks of `vision` or `language`."""
        return {"vision": self._vision, "language": self._language}[part]

    @cached_property
    def _language(self) -> Blocks:
        return self._blocks("language", ("text_config",))

    @cached_property
    def _vision(self) -> Blocks:
        return self._blocks("vision", ("vision_config",))

    def _blocks(self, part: Part, sections: tuple[str, ...]) -> Blocks:
        """Widths from the matrices of the part's first block; the head count from the configuration."""
        inside = [(w, int(found[1])) for w in self.weights if w.part == part and (found := _block(w))]
        if not inside:
            raise ShapeError(f"{self.name}: the {part} part has no transformer blocks that are known here")
        # A tower may number its blocks from another start, and a projector may have blocks of its own.
        first = {_BLOCK.split(w.name)[-1]: w.shape for w, number in inside if number == inside[0][1]}
        width = {key.removesuffix(".weight").rpartition(".")[2]: shape for key, shape in first.items()}
        fused = width.get("qkv")
        query, key = (fused[0] // 3,) * 2 if fused else (width["q_proj"][0], width["k_proj"][0])
        hidden = (fused or width["q_proj"])[1]
        inner = next(width[n][0] for n in ("gate_proj", "fc1", "linear_fc1") if n in width)
        own = next((self.config[s] for s in sections if s in self.config), self.config)
        heads = own.get("num_attention_heads") or own.get("num_heads") or max(1, query // 64)
        count = len({number for _, number in inside})
        return Blocks(count, hidden, query, key, inner, heads, gated="gate_proj" in width)


def fully_trained(spec: FitSpec, part: Part) -> bool:
    """Whether a training updates the weights of a part themselves, not adapters."""
    return part in spec.train_parts if spec.lora else part not in spec.freeze


def trained_elements(weight: Weight, spec: FitSpec) -> int:
    """Parameters that a training updates for one weight: itself, its adapter (A and B), or none."""
    if fully_trained(spec, weight.part):
        return weight.size
    adapted = spec.lora is not None and weight.part in spec.lora.parts and weight.adaptable
    return spec.lora.r * sum(weight.shape) if spec.lora and adapted else 0


def _family(name: str, config: Mapping[str, Any]) -> Any:
    """The model family of a configuration. Raises ShapeError."""
    if "model_type" not in config:
        raise ShapeError(f"{name}: its config.json names no model_type")
    from training.families import find

    if (family := find(config["model_type"])) is None:
        raise ShapeError(f"{name}: no model family knows the model type {config['model_type']!r}")
    return family


def _weight(family: Any, name: str, shape: tuple[int, ...]) -> Weight:
    # Checkpoints of before transformers 5 have the decoder at `model.` itself.
    inside = re.sub(r"^model\.(?=layers\.|embed_tokens\.|norm\.)", "model.language_model.", name)
    part = family.part_of(inside)
    module = inside.removesuffix(".weight")
    matrix = module != inside and len(shape) == 2
    return Weight(name, shape, part, matrix and bool(re.fullmatch(family.lora_layers[part], module)))


def _block(weight: Weight) -> re.Match[str] | None:
    return _BLOCK.search(weight.name)


def headers(folder: Path) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...]]]]:
    """(config.json, name and shape of each weight) of a checkpoint; torch is not imported.

    Raises ShapeError when a file is missing or cannot be read.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        files = sorted(folder.glob("*.safetensors"))
        shapes = [entry for file in files for entry in _header(file)]
    except (OSError, ValueError) as error:
        raise ShapeError(f"{folder} is not a checkpoint whose shapes can be read: {error}") from error
    if not shapes:
        raise ShapeError(f"{folder} has no safetensors file: the shapes of its weights are unknown")
    return config, shapes


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of each tensor of a safetensors file: 8 bytes of length, then JSON."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file} is not a safetensors file, or is cut off")
        header = json.loads(handle.read(length))
    yield from ((name, tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__")
