"""How long the examples of a training are: from the token store, from the pool's table, or assumed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LABEL_SHARE = 1 / 3
"""Assumed share of a sample's text tokens that carry a loss, where nobody has counted them."""
ASSUMED_IMAGES = "; images of 640 x 480 pixels assumed"


@dataclass(frozen=True)
class Lengths:
    """One entry for each example: `tokens` int [n] (image tokens included), `labels` int [n] and `patches`.

    `patches` int [n] are the positions that the vision tower computes for its images. `source` says in words
    where the numbers are from. `counted`: whether they are of real examples, the longest among them.
    """

    tokens: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    source: str
    counted: bool = True

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def assumed(cls, count: int, text: int, images: float, image_tokens: int, patches: int) -> "Lengths":
        """`count` equal examples of `text` tokens, a third of them labels, and `images` images."""
        tokens = np.full(count, round(text + images * image_tokens))
        labels = np.full(count, max(1, round(LABEL_SHARE * text)))
        source = f"assumed: {text} text tokens and {images:g} images of {image_tokens} tokens a sample"
        return cls(tokens, labels, np.full(count, round(images * patches)), source, counted=False)

    def longest(self, limit: int | None) -> int:
        """Tokens of the longest example; where lengths are assumed, the limit: most data reach it."""
        return int(self.tokens.max()) if self.counted or limit is None else limit

    def take(self, rows: np.ndarray) -> "Lengths":
        """Of these examples only."""
        return replace(self, tokens=self.tokens[rows], labels=self.labels[rows], patches=self.patches[rows])

    def resized(self, count: int) -> "Lengths":
        """`count` examples with these lengths in the same proportions: those of a subset not chosen yet."""
        rows = np.linspace(0, len(self) - 1, count).round().astype(np.int64)
        return self if count == len(self) else self.take(np.argsort(self.tokens, kind="stable")[rows])

    def within(self, limit: int | None, policy: str) -> "Lengths":
        """What a limit of tokens leaves: longer examples are cut (`policy` truncate) or left out."""
        if limit is None or not (self.tokens > limit).any():
            return self
        if policy == "truncate":
            return replace(self, tokens=np.minimum(self.tokens, limit))
        return self.take(np.flatnonzero(self.tokens <= limit))


def of_pool(folder: Path, image_tokens: int, ratio: float, rows: np.ndarray | None = None) -> Lengths:
    """Of a pool's table: text tokens without the chat template's, and image tokens.

    `image_tokens`: of an image, where the pool has not counted them; `ratio`: positions of the tower for an
    image token; `rows`: default all. A third of the text is taken to carry a loss. Raises PoolError.
    """
    from curation.pool.read import read_info, read_table

    table = read_table(folder, read_info(folder, ("n",)))
    text = table["text_tokens"].to_numpy().astype(np.int64)
    assumed = pc.multiply(table["n_images"], pa.scalar(image_tokens, pa.int64()))
    images = pc.coalesce(pc.cast(table["image_tokens"], pa.int64()), assumed).to_numpy()
    labels = np.maximum(1, np.round(LABEL_SHARE * text)).astype(np.int64)
    counted = table["image_tokens"].null_count == 0
    source = "the pool's text tokens, without the chat template's" + ("" if counted else ASSUMED_IMAGES)
    lengths = Lengths(text + images, labels, np.round(ratio * images).astype(np.int64), source)
    return lengths if rows is None else lengths.take(rows)


def of_store(folder: Path, ratio: float, rows: np.ndarray | None = None) -> Lengths:
    """Of a token store, counted; `ratio`: positions of the tower for an image token. Raises StoreError."""
    from training.token_store import TokenStore

    store = TokenStore.open(folder, verify=False)
    kept = np.flatnonzero(store.lengths) if rows is None else rows[store.lengths[rows] > 0]
    patches = np.round(ratio * store.image_tokens[kept]).astype(np.int64)
    return Lengths(store.lengths[kept], store.labels_count[kept], patches, "counted: the token store")


def of_encoded(examples: Sequence[Any], patches: Sequence[int]) -> Lengths:
    """Of rendered examples (training.render.Encoded); `patches`: of the images of each."""
    tokens = np.array([len(example) for example in examples])
    labels = np.array([int((example.labels[1:] >= 0).sum()) for example in examples])
    return Lengths(tokens, labels, np.array(patches), "counted: rendered examples")
