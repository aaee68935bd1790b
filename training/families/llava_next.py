"""LLaVA-NeXT (`LlavaNextForConditionalGeneration`): CLIP, a two-layer projector and a Llama or Qwen decoder.

Every image is tiled (anyres), also those of a sample with several. Names of weights: as in
`training.families.llava` (llava-hf/llava-v1.6-*-hf; "llava_next" in transformers' `conversion_mapping.py`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.families.base import CHATML
from training.families.llava import Llava

if TYPE_CHECKING:
    import torch

LLAMA_3, MISTRAL = "<|start_header_id|>", "[INST]"


class LlavaNext(Llava):
    """LLaVA-NeXT (LLaVA-1.6)."""

    name = "llava_next"
    model_types = ("llava_next",)
    processors = ("LlavaNextProcessor",)

    def template(self, processor: Any) -> str | None:
        """Vicuna's, Mistral's, or Qwen's with its system turn; none for Llama 3.

        Vicuna and Mistral share a tokenizer: the checkpoint's own template tells which it is.
        """
        vocabulary = processor.tokenizer.get_vocab()
        if CHATML in vocabulary:
            return "llava_next_qwen"
        if LLAMA_3 in vocabulary:
            return None
        own = (processor.chat_template, processor.tokenizer.chat_template)
        return "llava_next_mistral" if any(MISTRAL in text for text in own if text) else "llava_1_5"

    def pixels(
        self, processor: Any, samples: Sequence[Sequence["torch.Tensor"]]
    ) -> dict[str, "torch.Tensor"]:
        """pixel_values [images, tiles, 3, side, side] (zero-padded) and image_sizes int64 [images, 2]."""
        import torch

        flat = [image for images in samples for image in images]
        out = processor.image_processor(flat, return_tensors="pt", do_pad=True)
        return {key: torch.as_tensor(out[key]) for key in ("pixel_values", "image_sizes")}

    def blank(self, config: Any) -> dict[str, "torch.Tensor"]:
        """A black image that takes one of the smallest grids: the whole image as one tile, and its tiles."""
        import torch

        side = config.vision_config.image_size
        height, width = min(config.image_grid_pinpoints, key=lambda grid: grid[0] * grid[1])
        tiles = 1 + (height // side) * (width // side)
        return {
            "pixel_values": torch.zeros(1, tiles, 3, side, side),
            "image_sizes": torch.tensor([[height, width]]),
        }
