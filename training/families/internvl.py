"""InternVL 2.5 to 3.5 (`InternVLForConditionalGeneration` of transformers): InternViT and a decoder.

An image is cut into up to 12 tiles and a thumbnail (arXiv 2404.16821, section 3.3); its tokens stand between
`<img>` and `</img>`. Names of weights: those of OpenGVLab/InternVL3-*-hf, which were written by
`convert_internvl_weights_to_hf.py` of transformers 4.52, before the wrapper `model.` ("internvl" in its
`conversion_mapping.py` points to "llava"; vLLM's `interns1.py` reads both).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from training.families.base import ATTENTION_AND_MLP, Family
from training.families.llava import HUB_NAMES

if TYPE_CHECKING:
    import torch


class InternVl(Family):
    """InternVL in transformers' own classes; the checkpoints with remote code are other ones."""

    name = "internvl"
    model_types = ("internvl",)
    processors = ("InternVLProcessor",)
    lora_layers: ClassVar = {
        "vision": r".*\bvision_tower\..*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
        "projector": r".*\bmulti_modal_projector\.linear_[12]",
        "language": rf".*\blanguage_model\..*\.{ATTENTION_AND_MLP}",
    }
    hub_names = HUB_NAMES

    def image_tokens(self, processor: Any, size: tuple[int, int], single: bool) -> int:
        """Those of the tiles and the thumbnail, with the two marks around them."""
        tiles = processor.image_processor.get_number_of_image_patches(*size, {"crop_to_patches": True})
        return tiles * processor.image_seq_length + 2

    def image_ids(self, processor: Any, size: tuple[int, int], single: bool) -> np.ndarray:
        """As in `Family`, between the tokens of `<img>` and `</img>`."""
        ids = super().image_ids(processor, size, single).copy()
        ids[0], ids[-1] = processor.start_image_token_id, processor.end_image_token_id
        return ids

    def pixels(
        self, processor: Any, samples: Sequence[Sequence["torch.Tensor"]]
    ) -> dict[str, "torch.Tensor"]:
        """pixel_values [tiles of all images, 3, side, side]."""
        flat = [image for images in samples for image in images]
        # The image processor's own default is one tile; InternVL's processor asks it to cut.
        out = processor.image_processor(flat, return_tensors="pt", crop_to_patches=True)
        return {"pixel_values": out["pixel_values"]}

    def blank(self, config: Any) -> dict[str, "torch.Tensor"]:
        """One black tile."""
        import torch

        return {"pixel_values": torch.zeros(1, 3, *config.vision_config.image_size)}
