"""A checkpoint opened for scoring (model, renderer and collator), and passes over many samples in batches."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curation.pool.sample import Sample
from curation.signals.core.batches import padded_tokens
from curation.signals.core.table import Advance
from training.aspects import mode_of_view
from training.collate import Collator
from training.hub import local_copy
from training.images import ImageError
from training.models import checkpoint_hash, dtype_of, load
from training.models import image_mode as image_mode_of
from training.render import Encoded, Renderer, RenderError


class ModelError(ValueError):
    """A checkpoint of a kind that a producer cannot use."""


@dataclass
class PassStats:
    """Counts and times of a producer's passes over its shards in this run.

    samples: seen. tokens and padded: model input tokens without and with padding. missing: samples without a
    value, by reason.
    """

    samples: int = 0
    tokens: int = 0
    padded: int = 0
    seconds: float = 0.0
    missing: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """samples, seconds, samples_per_second, padding_efficiency (tokens / padded), missing by reason.

        All of this run alone: shards kept from an earlier run are not seen again.
        """
        return {
            "samples": self.samples,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(self.samples / self.seconds, 1) if self.seconds else None,
            "padding_efficiency": round(self.tokens / self.padded, 4) if self.padded else None,
            "missing": dict(sorted(self.missing.items())),
        }


def default_device(device: str | None) -> torch.device:
    """The named device; by default CUDA if available, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def checkpoint_identity(path: Path, dtype: str, device: torch.device, **settings: Any) -> dict[str, Any]:
    """What determines a checkpoint's outputs: content, `settings`, precision, device type and versions."""
    return {
        "model_hash": checkpoint_hash(path),
        **settings,
        "dtype": dtype,
        "device": device.type,
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


class Vlm:
    """A vision-language checkpoint in evaluation mode.

    dtype: of the weights, one of training.models.DTYPES; log-probabilities are float32 in any case.
    image_mode: "base" or "anyres"; default: the checkpoint's own. view: instead of it, "single" or "anyres".
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        image_mode: str | None = None,
        view: str | None = None,
    ) -> None:
        self.path, self.dtype, self.device = local_copy(path), dtype, default_device(device)
        model, processor = load(self.path, dtype=dtype_of(dtype))
        self._open(model, processor, image_mode or mode_of_view(view, image_mode_of(model)))

    def _open(self, model: Any, processor: Any, image_mode: str | None) -> None:
        self.model, self.processor = model.to(self.device), processor
        self.image_mode = image_mode or image_mode_of(model)
        self.renderer = Renderer(self.processor, self.image_mode)
        self.tokenizer = self.renderer.tokenizer
        self.collator = Collator(self.renderer.pad_id, self.renderer.loader, mute_broken=True)
        self.head = model.get_output_embeddings()

    def identity(self, producer: str, pool_hash: str) -> dict[str, Any]:
        """What determines a signal computed with this checkpoint, apart from the prompts."""
        checkpoint = checkpoint_identity(self.path, self.dtype, self.device, image_mode=self.image_mode)
        return {"producer": producer, "pool_hash": pool_hash, **checkpoint}

    def batch(self, examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Model inputs on the device.

        A broken image is replaced by a blank one and recorded in `collator.broken`.
        """
        return {key: value.to(self.device) for key, value in self.collator(examples).items()}

    def hidden(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Last hidden states [B, T, H] of a batch."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "branch_index")}
        return self.model.model(**inputs, use_cache=False).last_hidden_state

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token log-probabilities float32 [N, vocabulary] at hidden states [N, H]."""
        return torch.log_softmax(self.head(hidden).float(), dim=-1)

    @torch.inference_mode()
    def run(
        self,
        samples: Iterable[Sample],
        encode: Callable[[Sample], Encoded],
        make_batches: Callable[[np.ndarray], list[np.ndarray]],
        score: Callable[[list[Encoded]], Sequence[Any]],
        stats: PassStats,
        advance: Advance,
    ) -> list[Any]:
        """`score` of every sample, in the order of `samples`, computed in batches of similar length.

        make_batches: lengths in tokens int64 [n] -> index arrays. A sample that cannot be rendered, or whose
        image cannot be decoded, gets None and is counted in `stats.missing`.
        """
        start = time.perf_counter()
        examples = [self._encode(sample, encode, stats) for sample in samples]
        usable = [(i, example) for i, example in enumerate(examples) if example is not None]
        lengths = np.array([len(example) for _, example in usable], dtype=np.int64)
        batches = make_batches(lengths)
        values: list[Any] = [None] * len(examples)
        advance(len(examples) - len(usable))
        for batch in batches:
            chunk = [usable[k] for k in batch]
            scores = score([example for _, example in chunk])
            for (i, example), value in zip(chunk, scores, strict=True):
                values[i] = self._unless_broken(example, value, stats)
            advance(len(batch))
        stats.samples += len(examples)
        stats.tokens += int(lengths.sum())
        stats.padded += padded_tokens(lengths, batches)
        stats.seconds += time.perf_counter() - start
        return values

    def _encode(
        self, sample: Sample, encode: Callable[[Sample], Encoded], stats: PassStats
    ) -> Encoded | None:
        try:
            return encode(sample)
        except (RenderError, ImageError) as error:
            stats.missing[error.reason] += 1
            return None

    def _unless_broken(self, example: Encoded, value: Any, stats: PassStats) -> Any:
        error = self.collator.broken.get(example.name)
        # `broken` is keyed by sample: its variants that are rendered without the image are valid.
        if error is None or not example.images:
            return value
        stats.missing[error.reason] += 1
        return None
