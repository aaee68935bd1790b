"""The contract of a model family: what rendering, batches, training and saving ask about one kind of model.

A family is one file in this package, one chat template, and one line in the registry. What it does not
define is as in the LLaVA classes of transformers.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch

PARTS = ("vision", "projector", "language")
"""The parts of a model that can be trained, frozen and adapted separately; each parameter belongs to one."""

CHATML = "<|im_start|>"
ATTENTION_AND_MLP = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The linear layers of a Llama or Qwen decoder's block."""


class Family:
    """One model family; it holds no state, and each question gets the config, processor or model it is about.

    `name`: the family's name, usually the model type. `model_types`: values of `config.model_type`.
    `processors`: class names of processors. `one_tile`: whether the image mode "base" exists.
    `three_rows`: whether positions have three rows.
    `parts`: pattern (searched) on in-memory parameter names for "vision" and "projector"; all others belong
    to "language". `lora_layers`: part -> the linear layers of it that LoRA adapts (full match on module
    names). `hub_names`: (pattern, replacement) in the order in which they turn an in-memory name into the
    Hub's.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    processors: ClassVar[tuple[str, ...]]
    one_tile: ClassVar[bool] = False
    three_rows: ClassVar[bool] = False
    parts: ClassVar[dict[str, str]] = {
        "vision": r"\bvision_tower\.",
        "projector": r"\bmulti_modal_projector\.|\bimage_newline\b",
    }
    lora_layers: ClassVar[dict[str, str]] = {
        "vision": r".*\bvision_tower\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
        "projector": r".*\bmulti_modal_projector\.linear_[12]",
        "language": rf".*\blanguage_model\..*\.{ATTENTION_AND_MLP}",
    }
    hub_names: ClassVar[tuple[tuple[str, str], ...]] = ()

    def part_of(self, name: str) -> str:
        """The part that a parameter belongs to, by its in-memory name."""
        return next((part for part, pattern in self.parts.items() if re.search(pattern, name)), "language")

    def lora_targets(self, parts: Sequence[str]) -> str:
        """The pattern (full match on module names) of the linear layers that LoRA adapts in `parts`."""
        return "|".join(f"({self.lora_layers[part]})" for part in parts)

    def hub_key(self, config: Any, name: str) -> str:
        """The name that a weight has in the Hub's checkpoints of the class; a Hub name stays as it is."""
        for pattern, replacement in self.hub_names:
            name = re.sub(pattern, replacement, name)
        return name

    def template(self, processor: Any) -> str | None:
        """The name of the shipped chat template for this processor; None: there is none for its tokenizer."""
        return self.name

    def image_tokens(self, processor: Any, size: tuple[int, int], single: bool) -> int:
        """Number of tokens that replace the placeholder of an image of (height, width) pixels.

        `single`: it is the only image of its sample. Raises ValueError for a size that cannot be processed.
        """
        # Private, but the only way to a processor's count without pixels; a test compares it with the model.
        return processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0]

    def image_ids(self, processor: Any, size: tuple[int, int], single: bool) -> np.ndarray:
        """The tokens int32 [n], read-only, that replace the placeholder of such an image."""
        token = np.int32(processor.image_token_id)
        return np.broadcast_to(token, (self.image_tokens(processor, size, single),))  # one token in memory

    def pixels(
        self, processor: Any, samples: Sequence[Sequence["torch.Tensor"]]
    ) -> dict[str, "torch.Tensor"]:
        """The model's pixel inputs for samples of uint8 RGB images [3, H, W]; every sample has an image."""
        flat = [image for images in samples for image in images]
        return {"pixel_values": processor.image_processor(flat, return_tensors="pt")["pixel_values"]}

    def tiles(self, pixels: "torch.Tensor", side: tuple[int, int]) -> dict[str, "torch.Tensor"]:
        """The model's pixel inputs for normalised images [N, 3, *side], one tile each (`one_tile` only)."""
        raise NotImplementedError(f"{self.name} has no image mode 'base'")

    def grids(self, inputs: dict[str, "torch.Tensor"]) -> list[list[int]]:
        """What `positions` needs to know of each image, from pixel inputs; [] if positions have one row."""
        return []

    def positions(
        self, processor: Any, input_ids: np.ndarray, grids: Sequence[Sequence[int]] = ()
    ) -> np.ndarray:
        """Positions int64 [1, T], or [3, T] for multimodal rotary embeddings, of one sample [T].

        Positions of several samples are concatenated to pack them. `grids`: an entry for each of the sample's
        images. A model with three rows wants [4, B, T] for a packed batch: see `packed_positions`.
        """
        return np.arange(len(input_ids), dtype=np.int64)[None]

    def packed_positions(self, positions: Sequence[np.ndarray]) -> np.ndarray:
        """`position_ids` int64 [1, T], or [4, 1, T], of a pack, from the `positions` of its samples.

        With three rows, the first of the four counts the tokens of each sample; by it transformers tells the
        samples of a pack apart.
        """
        rows = np.concatenate(positions, axis=1)
        if len(rows) == 1:
            return rows
        counts = np.concatenate([np.arange(each.shape[1]) for each in positions])
        return np.concatenate([counts[None], rows])[:, None]

    def extra_inputs(self, processor: Any, input_ids: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """Inputs that follow from the token ids int64 [B, T], beside pixels and positions."""
        return {}

    def blank(self, config: Any) -> dict[str, "torch.Tensor"]:
        """The model's pixel inputs for one black image as small as it can be."""
        import torch

        side = config.vision_config.image_size
        return {"pixel_values": torch.zeros(1, 3, side, side)}

    def no_rows(self, features: Any) -> Any:
        """What `get_image_features` returned, with zero rows that still depend on all that was computed."""
        features.pooler_output = without_rows(features.pooler_output)
        return features


def without_rows(value: Any) -> Any:
    """A tensor, or a list of tensors at any depth, without its rows."""
    return [without_rows(each) for each in value] if isinstance(value, (list, tuple)) else value[:0]
