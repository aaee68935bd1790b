"""LLaVA-1.5 (`LlavaForConditionalGeneration`): CLIP, a two-layer projector and Vicuna; one square per image.

Names of weights: those of the repositories llava-hf/llava-1.5-*-hf on the Hub, which transformers up to 4.51
had in memory too; `_checkpoint_conversion_mapping` of transformers 4.52 and `conversion_mapping.py` of 5.x
("llava", "LlavaModel", "CLIPVisionModel") list the differences, and vLLM reads the tower by these names only.
"""

import re
from typing import Any

from training.families.base import Family

HUB_NAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(?=vision_tower\.|multi_modal_projector\.|image_newline$)", ""),
)
"""From names with transformers' wrapper `model.` to those without, which had the decoder's own inside."""
_TOWERS = ("siglip_vision_model", "clip_vision_model")
_BARE_TOWER = re.compile(r"^(vision_tower\.)(?=(?:embeddings|encoder|pre_layrnorm|post_layernorm|head)\.)")


class Llava(Family):
    """LLaVA-1.5; the other LLaVA classes share its names of parts, layers and weights."""

    name = "llava"
    model_types = ("llava",)
    processors = ("LlavaProcessor",)
    hub_names = HUB_NAMES

    def hub_key(self, config: Any, name: str) -> str:
        """As in `Family`. The modules of a SigLIP or CLIP tower are below `vision_model.` on the Hub."""
        name = super().hub_key(config, name)
        tower = getattr(getattr(config, "vision_config", None), "model_type", None)
        return _BARE_TOWER.sub(r"\1vision_model.", name) if tower in _TOWERS else name

    def template(self, processor: Any) -> str | None:
        """Vicuna's."""
        return "llava_1_5"
