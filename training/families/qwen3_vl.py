"""Qwen3-VL (`Qwen3VLForConditionalGeneration`): a vision transformer, mergers and Qwen3.

Beside the merger whose output replaces the placeholders, "deepstack" mergers of earlier vision layers are
added to the first decoder layers (arXiv 2511.21631); both belong to the projector. Names of
weights on the Hub (Qwen/Qwen3-VL-*-Instruct) are the in-memory ones: transformers' `conversion_mapping.py`
has no entry for "qwen3_vl", and vLLM maps from `model.visual.` and `model.language_model.`.
"""

from typing import Any, ClassVar

from training.families.base import ATTENTION_AND_MLP, without_rows
from training.families.qwen2_5_vl import Qwen25Vl

_MERGERS = r"\bvisual\.(merger|deepstack_merger_list)\."


class Qwen3Vl(Qwen25Vl):
    """Qwen3-VL, dense."""

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    processors = ("Qwen3VLProcessor",)
    parts: ClassVar = {"projector": _MERGERS, "vision": r"\bvisual\."}
    lora_layers: ClassVar = {
        "vision": r".*\bvisual\.blocks\..*\.(qkv|proj|linear_fc1|linear_fc2)",
        "projector": rf".*{_MERGERS}.*linear_fc[12]",
        "language": rf".*\blanguage_model\..*\.{ATTENTION_AND_MLP}",
    }
    hub_names = ()

    def no_rows(self, features: Any) -> Any:
        """As in `Family`, for the features of the deepstack mergers too."""
        features = super().no_rows(features)
        # tensors, or in later versions of transformers a tuple of tensors, for each layer
        features.deepstack_features = [without_rows(layer) for layer in features.deepstack_features]
        return features
