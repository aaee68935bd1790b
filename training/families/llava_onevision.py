"""LLaVA-OneVision (`LlavaOnevisionForConditionalGeneration`): SigLIP, a two-layer projector and Qwen2.

An image is tiled (anyres) if it is the only one of its sample, else it is one tile (arXiv 2408.03326, section
3.2). In the image mode "base" every image is one tile. Names of weights: as in `training.families.llava`
(llava-hf/llava-onevision-qwen2-*-hf; "llava_next" in transformers' `conversion_mapping.py`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.families.base import CHATML
from training.families.llava import Llava

if TYPE_CHECKING:
    import torch


class LlavaOnevision(Llava):
    """LLaVA-OneVision."""

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    processors = ("LlavaOnevisionProcessor",)
    one_tile = True

    def template(self, processor: Any) -> str | None:
        """Qwen2's, if the tokenizer has its marks."""
        return self.name if CHATML in processor.tokenizer.get_vocab() else None

    def image_tokens(self, processor: Any, size: tuple[int, int], single: bool) -> int:
        """One token for each patch of the tile and a newline, or those of all tiles of the only image."""
        return super().image_tokens(processor, size, single) if single else processor.num_image_tokens + 1

    def pixels(
        self, processor: Any, samples: Sequence[Sequence["torch.Tensor"]]
    ) -> dict[str, "torch.Tensor"]:
        """pixel_values [images, tiles, 3, side, side] (zero-padded), image_sizes [images, 2] and
        batch_num_images [samples]."""
        import torch

        out = processor.image_processor([list(images) for images in samples], return_tensors="pt")
        return {key: torch.as_tensor(out[key]) for key in ("pixel_values", "image_sizes", "batch_num_images")}

    def tiles(self, pixels: "torch.Tensor", side: tuple[int, int]) -> dict[str, "torch.Tensor"]:
        """As `pixels`, for one tile per image: pixel_values [images, 3, side, side]."""
        import torch

        # batch_num_images other than 1 makes the model take one tile per image (its multi-image branch).
        return {
            "pixel_values": pixels,
            "image_sizes": torch.tensor([side] * len(pixels)),
            "batch_num_images": torch.tensor([max(len(pixels), 2)]),
        }

    def blank(self, config: Any) -> dict[str, "torch.Tensor"]:
        """One black tile."""
        import torch

        side = config.vision_config.image_size
        return self.tiles(torch.zeros(1, 3, side, side), (side, side))
