"""A vision encoder (DINOv2, ViT, or the vision tower of a dual encoder), opened for its images' vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curation.signals.core.vlm import ModelError, checkpoint_identity, default_device
from training.hub import local_copy
from training.models import dtype_of, quiet

CLASS_TOKENS = ("cls_token", "class_embedding")
"""Names of the parameter that is the class token."""


class VisionEncoder:
    """A checkpoint that AutoModel opens, with its image processor.

    pooling: "cls", the last hidden state of the class token (as PreSel takes DINOv2's); "mean" of all other
    tokens; "pooler", what the model itself makes of them. Raises ModelError where the model has no such
    vector.
    """

    def __init__(
        self, path: Path, *, pooling: str = "cls", dtype: str = "float32", device: str | None = None
    ) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.path, self.dtype, self.device = local_copy(path), dtype, default_device(device)
        self.pooling = pooling
        with quiet():
            model = AutoModel.from_pretrained(str(self.path), dtype=dtype_of(dtype))
            self.processor = AutoImageProcessor.from_pretrained(str(self.path))
        # Of a dual encoder only the tower is used.
        self.model = getattr(model, "vision_model", model).eval().to(self.device)
        names = [name.rpartition(".")[2] for name, _ in self.model.named_parameters()]
        self.has_class_token = any(name in CLASS_TOKENS for name in names)
        if pooling == "cls" and not self.has_class_token:
            raise ModelError(
                f"{path} is a {type(self.model).__name__} without a class token: "
                "choose the pooling 'mean' or 'pooler'"
            )
        self.dims = self.images([torch.zeros(3, 64, 64, dtype=torch.uint8)]).shape[1]

    def identity(self, producer: str, pool_hash: str) -> dict[str, Any]:
        """What determines a signal computed with this encoder, apart from its settings."""
        checkpoint = checkpoint_identity(self.path, self.dtype, self.device)
        return {"producer": producer, "pool_hash": pool_hash, **checkpoint}

    @torch.inference_mode()
    def images(self, images: Sequence[torch.Tensor]) -> np.ndarray:
        """Vectors float32 [n, dims] of decoded images uint8 RGB [3, H, W]."""
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"]
        output = self.model(pixel_values=pixels.to(self.device, self.model.dtype))
        return self._pooled(output).float().cpu().numpy()

    def _pooled(self, output: Any) -> torch.Tensor:
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise ModelError(f"{type(self.model).__name__} has no pooler: choose another pooling")
            return output.pooler_output
        hidden = output.last_hidden_state
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, int(self.has_class_token) :].mean(dim=1)
