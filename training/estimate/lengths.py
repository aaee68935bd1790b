"""How long the examples of a training are: from the token store, from the pool's table, or assumed."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.estimate.shapes import Shape
from training.flops import image_patches

LABEL_SHARE = 1 / 3
"""Assumed share of a sample's text tokens that carry a loss, where nobody has counted them."""
ASSUMED_IMAGES = "; images of 640 x 480 pixels assumed"


@dataclass(frozen=True)
class Lengths:
    """Of each example, int [n]: `tokens` (image tokens included), `labels`, `image_tokens` and `images`.

    `source` says in words where the numbers are from. `counted`: whether they are of real examples, the
    longest among them. `turns`: questions of each example, None where nobody knows.
    """

    tokens: np.ndarray
    labels: np.ndarray
    image_tokens: np.ndarray
    images: np.ndarray
    source: str
    counted: bool = True
    turns: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def assumed(cls, count: int, text: int, images: int, image_tokens: int) -> "Lengths":
        """`count` equal examples of `text` tokens, a third of them labels, and `images` images."""
        columns = (text + images * image_tokens, max(1, round(LABEL_SHARE * text)), images * image_tokens)
        source = f"assumed: {text} text tokens and {images} images of {image_tokens} tokens a sample"
        arrays = (np.full(count, value) for value in (*columns, images))
        return cls(*arrays, source, counted=False)

    def patches(self, shape: Shape) -> np.ndarray:
        """Patches that the vision tower sees of each example, int [n]."""
        # OneVision appends a newline to each image, which is no patch and must not count as another tile.
        added = self.images if shape.sizes.tile else 0
        return image_patches(shape.sizes, self.image_tokens - added, self.images)

    def longest(self, limit: int | None) -> int:
        """Tokens of the longest example; where lengths are assumed, the limit: most data reach it."""
        return int(self.tokens.max()) if self.counted or limit is None else limit

    def take(self, rows: np.ndarray) -> "Lengths":
        """Of these examples only."""
        columns = ("tokens", "labels", "image_tokens", "images")
        turns = None if self.turns is None else self.turns[rows]
        return replace(self, **{name: getattr(self, name)[rows] for name in columns}, turns=turns)

    def resized(self, count: int) -> "Lengths":
        """`count` examples with these lengths in the same proportions: those of a subset not chosen yet."""
        if count == len(self):
            return self
        rows = np.linspace(0, len(self) - 1, count).round().astype(np.int64)
        return self.take(np.argsort(self.tokens, kind="stable")[rows])

    def within(self, limit: int | None, policy: str) -> "Lengths":
        """What a limit of tokens leaves: longer examples are cut (`policy` truncate) or left out."""
        if limit is None or not (self.tokens > limit).any():
            return self
        if policy == "truncate":
            return replace(self, tokens=np.minimum(self.tokens, limit))
        return self.take(np.flatnonzero(self.tokens <= limit))


def of_pool(folder: Path, image_tokens: int, rows: np.ndarray | None = None) -> Lengths:
    """Of a pool's table: text tokens (without a chat template's, unless by a pre-flight) and image tokens.

    `image_tokens`: of an image, where the pool has not counted them; `rows`: default all. A third of the text
    is taken to carry a loss. Raises PoolError.
    """
    from curation.pool.read import read_info, read_table

    info = read_info(folder, ("n",))
    table = read_table(folder, info)
    text = table["text_tokens"].to_numpy().astype(np.int64)
    images = table["n_images"].to_numpy().astype(np.int64)
    own = table["image_tokens"]
    counted = np.asarray(pc.fill_null(pc.cast(own, pa.int64()), -1))
    seen = np.where(counted < 0, images * image_tokens, counted)
    labels = np.maximum(1, np.round(LABEL_SHARE * text)).astype(np.int64)
    rendered = info.get("text_tokens", {}).get("rendered")
    source = "counted: the pool" if rendered else "the pool's text tokens, without the chat template's"
    source += ASSUMED_IMAGES if own.null_count else ""
    turns = table["n_turns"].to_numpy().astype(np.int64) if "n_turns" in table.column_names else None
    lengths = Lengths(text + seen, labels, seen, images, source, turns=turns)
    return lengths if rows is None else lengths.take(rows)


def of_store(folder: Path, rows: np.ndarray | None = None) -> Lengths:
    """Of the rows of a token store (default: all) that were not rejected. Raises StoreError."""
    from training.token_store import TokenStore

    store = TokenStore.open(folder, verify=False)
    kept = np.arange(len(store)) if rows is None else rows
    kept = kept[store.lengths[kept] > 0]
    columns = (store.lengths, store.labels_count, store.image_tokens, store.n_images)
    return Lengths(*(column[kept] for column in columns), "counted: the token store")
