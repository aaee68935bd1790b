"""FLOPs of training on an example, and what a device could do at most: the two sides of MFU.

    shape = Shape.of(config)                                          # from sizes alone, no weights
    costs = shape.training(lengths, labels, patches, trained=("language", "projector"))

What is counted is what the mathematics needs: two FLOPs for each multiplication with a weight, causal
attention once for each pair of tokens that see each other, the head on labelled tokens only. Norms,
activations, rotary embeddings and what gradient checkpointing computes again are not counted, so that an MFU
does not rise with work that is done twice.
"""

import copy
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

PEAKS = {
    "H200": 989e12,
    "H100 PCIE": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "B300": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 FLOP/s by a part of the device's name, as the vendor's data sheets give them (V100:
float16)."""

FORWARD, THROUGH, TRAINED = 1, 2, 3
"""Passes over a weight: forward; also the gradient of its input; also its own."""


def peak(device: str) -> float | None:
    """FLOP/s at most of a device by its name, e.g. "NVIDIA H100 80GB HBM3"; None for one not in PEAKS."""
    words = re.sub(r"[^A-Z0-9]+", " ", device.upper())
    fits = [name for name in PEAKS if re.search(rf"\b{name}\b", words)]
    return PEAKS[max(fits, key=len)] if fits else None


def mfu(flops: float, seconds: float, peak_flops: float, devices: int = 1) -> float:
    """Model FLOPs utilisation: FLOPs of the examples / (seconds x devices x peak FLOP/s of a device).

    `flops` as `Shape.training` counts them (arXiv 2204.02311, appendix B, but with causal attention counted
    once and frozen parts with the passes that they need). Padding and fillers count as time, not as FLOPs.
    """
    return flops / (seconds * devices * peak_flops)


@dataclass(frozen=True)
class Part:
    """Sizes of one part: weights of its linear layers, for each token or patch that passes them.

    `weights`: their number; `sides`: the sum of inputs + outputs, times a LoRA's rank the weights of the
    adapters; `attention`: layers x heads x head size.
    """

    weights: int
    sides: int = 0
    attention: int = 0


@dataclass(frozen=True)
class Shape:
    """Sizes of a vision-language model as FLOPs depend on them.

    `tile`: patches of one tile, 0: each image has its own number of patches (Qwen). `merge`: patches that
    become one token. `window`: patches that see each other in the tower's windowed layers, `whole`: the share
    of its layers in which all patches of a tile or image do.
    """

    language: Part
    head: Part
    vision: Part
    projector: Part
    tile: int
    merge: int = 1
    window: int = 0
    whole: float = 1.0

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Of a model's config, from the module tree on the meta device: the same rule for every family."""
        import torch
        from transformers import AutoModelForImageTextToText

        from training import families

        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(copy.deepcopy(config))
        family, head = families.of_config(config), model.get_output_embeddings()
        weights = dict.fromkeys(("language", "vision", "projector"), 0)
        sides = dict(weights)
        for name, module in model.named_modules():
            matrix = getattr(module, "weight", None)
            if module is head or not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)):
                continue
            part = family.part_of(name + ".weight")
            weights[part] += matrix.numel()
            sides[part] += sum(matrix.flatten(1).shape)
        text, vision = config.get_text_config(), config.vision_config
        patches = _size(getattr(vision, "image_size", 0)) // _size(vision.patch_size)
        layers = getattr(vision, "fullatt_block_indexes", None)  # Qwen2.5-VL: the layers without windows
        return cls(
            Part(weights["language"], sides["language"], _attention(text)),
            Part(head.weight.numel(), sum(head.weight.shape)),
            Part(weights["vision"], sides["vision"], _attention(vision)),
            Part(weights["projector"], sides["projector"]),
            tile=patches**2,
            merge=_merge(config),
            window=(vision.window_size // vision.patch_size) ** 2 if layers else 0,
            whole=len(layers) / vision.depth if layers else 1.0,
        )

    def forward(
        self, lengths: Any, labels: Any = 0, patches: Any = 0, images: Any = 0
    ) -> dict[str, np.ndarray]:
        """FLOPs of one forward pass by part, float64 [n]; "attention" and "sight" are those of decoder and
        tower.

        `lengths`: tokens of each example; `labels`: its labelled tokens; `patches`: patches that the tower
        sees, over all its tiles or images; `images`: its number of images, where tiles have no fixed size.
        """
        lengths, labels, patches, images = (
            np.asarray(x, np.float64) for x in (lengths, labels, patches, images)
        )
        image = self.tile or patches / np.maximum(images, 1)
        seen = self.whole * image + (1 - self.whole) * np.minimum(self.window, image)
        return {
            "language": 2.0 * self.language.weights * lengths,
            # Query by key and weight by value, 2 FLOPs each, for T (T + 1) / 2 pairs.
            "attention": 2.0 * self.language.attention * lengths * (lengths + 1),
            "head": 2.0 * self.head.weights * labels,
            "vision": 2.0 * self.vision.weights * patches,
            "sight": 4.0 * self.vision.attention * patches * seen,
            "projector": 2.0 * self.projector.weights * patches / self.merge,
        }

    def training(
        self,
        lengths: Any,
        labels: Any = 0,
        patches: Any = 0,
        images: Any = 0,
        *,
        trained: Collection[str] = ("language", "projector", "vision"),
        lora: Collection[str] = (),
        rank: int = 0,
    ) -> np.ndarray:
        """FLOPs of forward and backward pass of each example, float64 [n].

        A `trained` part takes three passes over its weights. One with adapters (`lora`, of rank `rank`) takes
        two, and three over the adapters. A frozen part takes two if a part before it (vision, projector,
        language) is trained, since the gradient goes through it, and else the forward pass alone.
        """
        passes = self.passes(trained, lora)
        flops = self.forward(lengths, labels, patches, images)
        # Both factors of an attention product are activations: its gradient costs twice its forward pass.
        with_gradient = {"attention": passes["language"], "sight": passes["vision"]}
        factors = passes | {
            name: TRAINED if own > FORWARD else FORWARD for name, own in with_gradient.items()
        }
        total = sum((factors[name] * own for name, own in flops.items()), np.zeros(1))
        for name in lora:
            part = getattr(self, name)
            total = total + TRAINED * flops[name] * rank * part.sides / max(part.weights, 1)
        return total

    @staticmethod
    def passes(trained: Collection[str], lora: Collection[str] = ()) -> dict[str, int]:
        """Passes over the weights of each part: FORWARD, THROUGH or TRAINED; the head belongs to the
        language."""
        out, flows = {}, False
        for part in ("vision", "projector", "language"):
            adapted = flows or part in lora
            out[part] = TRAINED if part in trained else THROUGH if adapted else FORWARD
            flows = flows or part in trained or part in lora
        out["head"] = out["language"]
        return out


def image_patches(shape: Shape, image_tokens: Any, images: Any) -> np.ndarray:
    """Patches of each example's images, from its image tokens, where only these are known; int64 [n].

    Exact where an image is one tile or a grid of merged patches (Qwen). For anyres an estimate: the tiles
    that hold the tokens, one of them the whole image; tiles of which padding is cut off again count in part.
    """
    tokens, images = np.asarray(image_tokens, np.int64), np.asarray(images, np.int64)
    if not shape.tile:
        return tokens * shape.merge
    return np.maximum(-(-tokens * shape.merge // shape.tile), images) * shape.tile * (images > 0)


def _size(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _attention(config: Any) -> int:
    """Layers x heads x head size of a decoder's or a tower's config."""
    layers = _first(config, "num_hidden_layers", "depth")
    heads = _first(config, "num_attention_heads", "num_heads")
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return layers * heads * size


def _first(config: Any, *names: str) -> int:
    return next(getattr(config, name) for name in names if getattr(config, name, None) is not None)


def _merge(config: Any) -> int:
    """Patches that become one image token: 1 in LLaVA's classes."""
    if merge := getattr(config.vision_config, "spatial_merge_size", 0):
        return merge**2
    if ratio := getattr(config, "downsample_ratio", 0):  # InternVL: a side of patches to one of tokens
        return round(1 / ratio) ** 2
    return int(getattr(config, "scale_factor", 1)) ** 2  # SmolVLM
