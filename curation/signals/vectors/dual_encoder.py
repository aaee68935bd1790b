"""A dual encoder of images and texts (CLIP, SigLIP and similar transformers models), opened for scoring."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curation.signals.core.batches import batches_by_count, padded_tokens
from curation.signals.core.vlm import ModelError, PassStats, checkpoint_identity, default_device
from training.hub import local_copy
from training.models import dtype_of, quiet


@dataclass
class EncoderStats(PassStats):
    """Statistics of an encoder's passes; tokens and padding of the texts. cut: truncated texts, by reason."""

    cut: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """As PassStats.summary, with the numbers of truncated texts by reason."""
        return {**super().summary(), "cut": {reason: n for reason, n in sorted(self.cut.items()) if n}}


class DualEncoder:
    """A checkpoint with get_image_features and get_text_features, its tokenizer and image processor.

    dtype: of the weights. `dims` is the length of its vectors, `context` the most tokens of a text.
    """

    def __init__(self, path: Path, *, dtype: str = "float32", device: str | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.path, self.dtype, self.device = local_copy(path), dtype, default_device(device)
        with quiet():
            self.model = (
                AutoModel.from_pretrained(str(self.path), dtype=dtype_of(dtype)).eval().to(self.device)
            )
            if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")):
                raise ModelError(
                    f"{path} is a {type(self.model).__name__}, "
                    "not a dual encoder of images and texts (CLIP, SigLIP)"
                )
            self.tokenizer = AutoTokenizer.from_pretrained(str(self.path))
            self.processor = AutoImageProcessor.from_pretrained(str(self.path))
        self.context: int = self.model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to its full context, without a mask.
        self.padding = "max_length" if self.model.config.model_type.startswith("siglip") else True
        self.dims = self.texts(["a"], 1).shape[1]

    def identity(self, producer: str, pool_hash: str) -> dict[str, Any]:
        """What determines a signal computed with this encoder, apart from the choice of text."""
        checkpoint = checkpoint_identity(self.path, self.dtype, self.device)
        return {"producer": producer, "pool_hash": pool_hash, **checkpoint}

    @torch.inference_mode()
    def images(self, images: Sequence[torch.Tensor]) -> np.ndarray:
        """Unit vectors float32 [n, d] of decoded images."""
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"]
        return self._units(
            self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype))
        )

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch_size: int, stats: EncoderStats | None = None) -> np.ndarray:
        """Unit vectors float32 [n, d]; a text longer than the context is truncated, counted in `stats`."""
        if not texts:
            return np.zeros((0, self.dims), np.float32)
        whole = np.array([len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]])
        lengths = np.minimum(whole, self.context)
        batches = batches_by_count(lengths, batch_size)
        parts = [
            self._units(self.model.get_text_features(**self._tokens([texts[i] for i in batch])))
            for batch in batches
        ]
        if stats is not None:
            stats.tokens += int(lengths.sum())
            stats.padded += (
                len(texts) * self.context if self.padding == "max_length" else padded_tokens(lengths, batches)
            )
            stats.cut["long_sentence"] += int((whole > lengths).sum())
        out = np.empty((len(texts), parts[0].shape[1]), np.float32)
        out[np.concatenate(batches)] = np.concatenate(parts)
        return out

    def _tokens(self, texts: list[str]) -> Any:
        options = {
            "padding": self.padding,
            "truncation": True,
            "max_length": self.context,
            "return_token_type_ids": False,
        }
        return self.tokenizer(texts, return_tensors="pt", **options).to(self.device)

    def _units(self, output: Any) -> np.ndarray:
        return torch.nn.functional.normalize(output.pooler_output.float(), dim=-1).cpu().numpy()
