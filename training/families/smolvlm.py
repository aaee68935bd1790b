"""SmolVLM2 (`SmolVLMForConditionalGeneration`): SigLIP, a pixel shuffle with one layer, and Llama.

An image is resized and cut into rows and columns of tiles, before a thumbnail; text tokens between the tiles
name them (arXiv 2504.05299). Names of weights on the Hub (HuggingFaceTB/SmolVLM2-*-Instruct) are
the in-memory ones: transformers' `conversion_mapping.py` has no entry for "smolvlm", and vLLM's `idefics3.py`
reads `model.text_model.`, `model.vision_model.` and `model.connector.`. The processor needs the package
num2words.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from training.families.base import ATTENTION_AND_MLP, Family

if TYPE_CHECKING:
    import torch


class SmolVlm(Family):
    """SmolVLM2."""

    name = "smolvlm"
    model_types = ("smolvlm",)
    processors = ("SmolVLMProcessor",)
    parts: ClassVar = {"vision": r"\bvision_model\.", "projector": r"\bconnector\."}
    lora_layers: ClassVar = {
        "vision": r".*\bvision_model\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
        "projector": r".*\bconnector\.modality_projection\.proj",
        "language": rf".*\btext_model\..*\.{ATTENTION_AND_MLP}",
    }

    def image_tokens(self, processor: Any, size: tuple[int, int], single: bool) -> int:
        """Those of the tiles and the thumbnail, and the text tokens between them."""
        return len(self.image_ids(processor, size, single))

    def image_ids(self, processor: Any, size: tuple[int, int], single: bool) -> np.ndarray:
        """The tokens of the processor's own text for such an image; it begins and ends with a special token,
        so that they do not depend on the text around it."""
        from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

        _, rows, columns = processor.image_processor.get_number_of_image_patches(*size)
        text = get_image_prompt_string(
            rows,
            columns,
            processor.image_seq_len,
            fake_token_around_image=processor.fake_image_token,
            image_token=processor.image_token,
            global_image_token=processor.global_image_token,
        )
        backend = processor.tokenizer.backend_tokenizer
        return np.array(backend.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def pixels(
        self, processor: Any, samples: Sequence[Sequence["torch.Tensor"]]
    ) -> dict[str, "torch.Tensor"]:
        """pixel_values [1, tiles, 3, side, side] and pixel_attention_mask [1, tiles, side, side]."""
        flat = [image for images in samples for image in images]
        out = processor.image_processor([flat], return_tensors="pt")
        return {key: out[key] for key in ("pixel_values", "pixel_attention_mask")}

    def blank(self, config: Any) -> dict[str, "torch.Tensor"]:
        """One black tile."""
        import torch

        side = config.vision_config.image_size
        return {"pixel_values": torch.zeros(1, 1, 3, side, side)}
