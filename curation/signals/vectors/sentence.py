"""A sentence encoder: a sentence-transformers directory, or the text tower of a dual encoder."""

import hashlib
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.hub import local_copy

if TYPE_CHECKING:
    from curation.signals.vectors.dual_encoder import DualEncoder, EncoderStats

MODULES = "modules.json"
"""The file that makes a directory one of sentence-transformers."""


def open_sentence_encoder(path: Path, device: str | None = None) -> "SentenceEncoder | DualEncoder":
    """The encoder of texts at `path`, a directory or an id on the Hub.

    A directory without modules.json is opened as a dual encoder, whose text tower is used. Raises ImportError
    with a hint where sentence-transformers is missing.
    """
    local = local_copy(path)
    if (local / MODULES).exists():
        return SentenceEncoder(local, device=device)
    from curation.signals.vectors.dual_encoder import DualEncoder

    return DualEncoder(local, device=device)


class SentenceEncoder:
    """A sentence-transformers model in float32; `dims` is the length of its vectors."""

    def __init__(self, path: Path, *, device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "sentence embeddings need sentence-transformers: pip install winnow[sentence]"
            ) from error
        self.path, self.model = path, SentenceTransformer(str(path), device=device)
        self.dims = len(self.model.encode("a", show_progress_bar=False))

    def identity(self, producer: str, pool_hash: str) -> dict[str, Any]:
        """What determines a signal computed with this encoder, apart from the choice of text."""
        return {
            "producer": producer,
            "pool_hash": pool_hash,
            "model_hash": _directory_hash(self.path),
            "device": str(self.model.device.type),
            "versions": {name: version(name) for name in ("sentence-transformers", "torch", "transformers")},
        }

    def texts(self, texts: Sequence[str], batch_size: int, stats: "EncoderStats") -> np.ndarray:
        """Vectors float32 [n, dims]; a text longer than the context is truncated, counted in `stats`."""
        if not texts:
            return np.zeros((0, self.dims), np.float32)
        stats.cut["long_text"] += self._too_long(texts)
        vectors = self.model.encode(
            list(texts), batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)

    def _too_long(self, texts: Sequence[str]) -> int:
        """Number of texts that are truncated; static embeddings have no limit."""
        limit = self.model.max_seq_length
        if limit is None or math.isinf(limit):
            return 0
        return sum(len(ids) > limit for ids in self.model.tokenizer(list(texts), verbose=False)["input_ids"])


def _directory_hash(path: Path) -> str:
    """sha256 over all files of a sentence-transformers directory and its subfolders, but no Markdown."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".md"):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
