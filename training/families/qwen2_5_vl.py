"""Qwen2.5-VL (`Qwen2_5_VLForConditionalGeneration`): an own vision transformer, a merger and Qwen2.5.

An image keeps its size within the processor's limits; 2 x 2 patches are a token, and positions have three
rows (arXiv 2502.13923, section 2.1). Names of weights: those of Qwen/Qwen2.5-VL-*-Instruct on the Hub, which
transformers up to 4.51 had in memory too ("Qwen2VLForConditionalGeneration" in its `conversion_mapping.py`;
vLLM reads both).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from training.families.base import ATTENTION_AND_MLP, Family

if TYPE_CHECKING:
    import torch


class Qwen25Vl(Family):
    """Qwen2.5-VL; Qwen3-VL shares its batches and positions."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    processors = ("Qwen2_5_VLProcessor",)
    three_rows = True
    parts: ClassVar = {"projector": r"\bvisual\.merger\.", "vision": r"\bvisual\."}
    lora_layers: ClassVar = {
        "vision": r".*\bvisual\.blocks\..*\.(qkv|proj|gate_proj|up_proj|down_proj)",
        "projector": r".*\bvisual\.merger\.mlp\.[02]",
        "language": rf".*\blanguage_model\..*\.{ATTENTION_AND_MLP}",
    }
    hub_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^model\.visual\.", "visual."),
        (r"^model\.language_model\.", "model."),
    )

    def pixels(
        self, processor: Any, samples: Sequence[Sequence["torch.Tensor"]]
    ) -> dict[str, "torch.Tensor"]:
        """pixel_values [patches, values per patch] and image_grid_thw int64 [images, 3], in patches."""
        flat = [image for images in samples for image in images]
        out = processor.image_processor(flat, return_tensors="pt")
        return {key: out[key] for key in ("pixel_values", "image_grid_thw")}

    def grids(self, inputs: dict[str, "torch.Tensor"]) -> list[list[int]]:
        """(time, height, width) of each image in patches."""
        return inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else []

    def positions(
        self, processor: Any, input_ids: np.ndarray, grids: Sequence[Sequence[int]] = ()
    ) -> np.ndarray:
        """Positions int64 [3, T] (time, height, width) for the multimodal rotary embedding.

        A text token has the same number three times, an image's tokens count rows and columns, and the next
        text token continues after the larger of these (arXiv 2409.12191, section 2.1).
        """
        is_image = input_ids == processor.image_token_id
        merge = processor.image_processor.merge_size
        out, at, position = np.zeros((3, len(is_image)), dtype=np.int64), 0, 0
        for time, height, width in grids:
            start = at + int(np.argmax(is_image[at:]))
            out[:, at:start] = position + np.arange(start - at)
            position += start - at
            shape = (time, height // merge, width // merge)
            at = start + int(np.prod(shape))
            out[:, start:at] = position + np.indices(shape).reshape(3, -1)
            position += max(shape[1:])
        out[:, at:] = position + np.arange(len(is_image) - at)
        return out

    def extra_inputs(self, processor: Any, input_ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """mm_token_type_ids int32 [B, T]: 1 at image tokens."""
        return {"mm_token_type_ids": (input_ids == processor.image_token_id).int()}

    def blank(self, config: Any) -> dict[str, "torch.Tensor"]:
        """One black image of one token: as many patches as are merged into it."""
        import torch

        vision = config.vision_config
        side = vision.spatial_merge_size
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": torch.zeros(side * side, values),
            "image_grid_thw": torch.tensor([[1, side, side]]),
        }
