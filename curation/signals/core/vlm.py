"""A checkpoint opened for scoring: model, renderer and collator together, and one pass over many samples in batches."""

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
from training.collate import Collator
from training.hub import local_copy
from training.images import ImageError
from training.models import checkpoint_hash, load
from training.models import image_mode as image_mode_of
from training.render import Encoded, Renderer, RenderError

DTYPES = ("float32", "bfloat16", "float16")


class ModelError(ValueError):
    """A checkpoint that is not what a producer can use."""


@dataclass
class Pass:
    """What the passes of one producer over its shards have done so far."""

    samples: int = 0
    tokens: int = 0
    padded: int = 0
    seconds: float = 0.0
    missing: Counter = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """Samples and seconds, samples/s, padding efficiency (real / computed tokens), missing rows by reason: all of this run,
        which does not see again what an earlier one has done."""
        return {
            "samples": self.samples,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(self.samples / self.seconds, 1) if self.seconds else None,
            "padding_efficiency": round(self.tokens / self.padded, 4) if self.padded else None,
            "missing": dict(sorted(self.missing.items())),
        }


class Vlm:
    """A vision-language checkpoint in evaluation mode on `device` (default: the accelerator if there is one).

    dtype: of the weights, "float32", "bfloat16" or "float16"; log-probabilities are float32 in any case. image_mode: "base"
    or "anyres"; the checkpoint's own if not given.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        image_mode: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
        self.path, self.dtype = local_copy(path), dtype
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._open(*load(self.path, dtype=getattr(torch, dtype)), image_mode)

    def _open(self, model: Any, processor: Any, image_mode: str | None) -> None:
        self.model, self.processor = model.to(self.device), processor
        self.image_mode = image_mode or image_mode_of(model)
        self.renderer = Renderer(self.processor, self.image_mode)
        self.tokenizer = self.renderer.tokenizer
        self.collator = Collator(self.renderer.pad_id, self.renderer.loader, mute_broken=True)
        self.head = model.get_output_embeddings()

    def identity(self, producer: str, pool_hash: str) -> dict[str, Any]:
        """What decides the values of a signal of this checkpoint, besides the prompts."""
        return {
            "producer": producer,
            "pool_hash": pool_hash,
            "model_hash": checkpoint_hash(self.path),
            "image_mode": self.image_mode,
            "dtype": self.dtype,
            "device": self.device.type,
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }

    def batch(self, examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Model inputs on the device. A broken image is replaced and remembered in `broken`."""
        return {key: value.to(self.device) for key, value in self.collator(examples).items()}

    def hidden(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Last hidden states [B, T, H] of a batch, whose entries that are no model input are left out."""
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
        done: Pass,
        advance: Advance,
    ) -> list[Any]:
        """`score` of every sample, computed in batches of similar length, in the order of `samples`.

        None where there is no value, counted in `done.missing`: the sample could not be rendered, or an image not
        decoded.
        """
        start = time.perf_counter()
        examples = [self._encode(sample, encode, done) for sample in samples]
        usable = np.array([i for i, example in enumerate(examples) if example is not None], dtype=np.int64)
        lengths = np.array([len(examples[i]) for i in usable], dtype=np.int64)
        batches = make_batches(lengths)
        values: list[Any] = [None] * len(examples)
        advance(len(examples) - len(usable))
        for batch in batches:
            chunk = [examples[i] for i in usable[batch]]
            for i, example, value in zip(usable[batch], chunk, score(chunk), strict=True):
                values[i] = self._unless_broken(example, value, done)
            advance(len(batch))
        done.samples += len(examples)
        done.tokens += int(lengths.sum())
        done.padded += padded_tokens(lengths, batches)
        done.seconds += time.perf_counter() - start
        return values

    def _encode(self, sample: Sample, encode: Callable[[Sample], Encoded], done: Pass) -> Encoded | None:
        try:
            return encode(sample)
        except (RenderError, ImageError) as error:
            done.missing[error.reason] += 1
            return None

    def _unless_broken(self, example: Encoded, value: Any, done: Pass) -> Any:
        error = self.collator.broken.get(example.name)
        if error is None or not example.images:  # the same sample is sound where its image is not asked for
            return value
        done.missing[error.reason] += 1
        return None
