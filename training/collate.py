"""From encoded examples to model inputs: padding or packing, pixels, and the tree attention of branches.

batch = Collator(pad_id, loader)(examples)
loss = model(**batch).loss
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from training.images import ImageError, PixelLoader
from training.render import IGNORE, Encoded


class Collator:
    """Makes one batch of a list of Encoded: padded, or packed into one row.

    A padded batch has input_ids, labels, attention_mask int64 [B, T] and the pixel inputs of
    `PixelLoader.batch`; for Qwen2.5-VL also mm_token_type_ids [B, T] (1 at image tokens). A batch of branch
    examples instead has attention_mask bool [B, 1, T, T], position_ids int64 [B, T] (Qwen2.5-VL: [3, B, T])
    and branch_index int64 [branches, 2] = (batch row, position whose logits predict the first token of the
    answer). Remove branch_index before calling the model. The two kinds of examples cannot share a batch.

    A `packed` batch has the examples one after the other: input_ids, labels int64 [1, T], position_ids int64
    [1, T] (Qwen2.5-VL: [4, 1, T]) that start again with each example, and what varlen attention wants:
    cu_seq_lens_q and _k int32 [examples + 1], the borders of the examples, and max_length_q and _k, the
    length of the longest; use_cache is False. No label is on the first token of an example: the last one of
    the example before would predict it. There is no attention_mask: see training/attention.py. `multiple`
    rounds T up with a last segment of padding, so that a compiled model sees fewer shapes.

    An image that cannot be decoded raises ImageError. With `mute_broken`, its example instead loses its
    labels, its image becomes blank (or, where not even its size can be read, all its images go), and `broken`
    (example name -> error) records it. An image of another size than the tokens were made for is a
    TokenMismatch. The first token of an example never has a label: nothing predicts it.
    """

    def __init__(
        self,
        pad_id: int,
        loader: PixelLoader,
        side: str = "right",
        mute_broken: bool = False,
        packed: bool = False,
        multiple: int = 1,
    ) -> None:
        if side not in {"right", "left"}:
            raise ValueError(f"side must be 'right' or 'left', got {side!r}")
        self.pad_id, self.loader, self.side, self.mute_broken = pad_id, loader, side, mute_broken
        self.packed, self.multiple = packed, multiple
        self.family = loader.family
        self.broken: dict[str, ImageError] = {}

    def __call__(self, examples: Sequence[Encoded]) -> dict[str, Any]:
        """The batch of these examples, in their order."""
        examples, pixels = zip(*map(self._read, examples), strict=True)
        images = self.loader.batch(pixels)
        if self.packed:
            return self._pack(examples, images)
        batch = self._pad(examples) | images
        batch |= self.family.extra_inputs(self.loader.processor, batch["input_ids"])
        if any(example.branches for example in examples):
            prefixes = self._positions(examples, images, [example.prefix for example in examples])
            batch |= self._tree(examples, batch["input_ids"].shape[1], prefixes)
        return batch

    def _pack(self, examples: Sequence[Encoded], images: dict[str, torch.Tensor]) -> dict[str, Any]:
        if any(example.branches for example in examples):
            raise ValueError("examples with branches cannot be packed")
        sizes = [len(example) for example in examples]
        positions = self._positions(examples, images, sizes)
        ids = [example.input_ids for example in examples]
        labels = [example.labels for example in examples]
        if padding := -sum(sizes) % self.multiple:
            sizes.append(padding)
            positions.append(np.broadcast_to(np.arange(padding), (len(positions[0]), padding)))
            ids.append(np.full(padding, self.pad_id, dtype=np.int32))
            labels.append(np.full(padding, IGNORE, dtype=np.int32))
        borders = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        targets = np.concatenate(labels).astype(np.int64)
        targets[borders[:-1]] = IGNORE
        input_ids = torch.from_numpy(np.concatenate(ids).astype(np.int64))[None]
        return {
            "input_ids": input_ids,
            "labels": torch.from_numpy(targets)[None],
            "position_ids": torch.from_numpy(self.family.packed_positions(positions)),
            "cu_seq_lens_q": torch.from_numpy(borders),
            "cu_seq_lens_k": torch.from_numpy(borders),
            "max_length_q": max(sizes),
            "max_length_k": max(sizes),
            "use_cache": False,  # with a cache, transformers does not look for packs
            **images,
            **self.family.extra_inputs(self.loader.processor, input_ids),
        }

    def _pad(self, examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        width = max(len(example) for example in examples)
        ids = np.full((len(examples), width), self.pad_id, dtype=np.int64)
        labels = np.full((len(examples), width), IGNORE, dtype=np.int64)
        mask = np.zeros((len(examples), width), dtype=np.int64)
        for row, example in enumerate(examples):
            at = slice(width - len(example), width) if self.side == "left" else slice(0, len(example))
            ids[row, at], labels[row, at], mask[row, at] = example.input_ids, example.labels, 1
            labels[row, at.start] = IGNORE
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "attention_mask": torch.from_numpy(mask),
        }

    def _positions(
        self, examples: Sequence[Encoded], images: dict[str, torch.Tensor], sizes: Sequence[int]
    ) -> list[np.ndarray]:
        """Positions of the first tokens of each example: int64 [1, size], or [3, size] for image grids."""
        grids = iter(self.family.grids(images))
        return [
            self.family.positions(
                self.loader.processor,
                example.input_ids[:size],
                [next(grids) for _ in example.images] if self.family.three_rows else (),
            )
            for example, size in zip(examples, sizes, strict=True)
        ]

    def _tree(
        self, examples: Sequence[Encoded], width: int, prefixes: list[np.ndarray]
    ) -> dict[str, torch.Tensor]:
        """Mask and positions such that each branch sees the prefix and itself only."""
        if self.side != "right" or not all(example.branches for example in examples):
            raise ValueError("a batch of branches must be right-padded and hold branch examples only")
        group = np.zeros((len(examples), width), dtype=np.int64)  # 0 = prefix, k = k-th branch, -1 = padding
        positions = np.zeros((len(prefixes[0]), len(examples), width), dtype=np.int64)
        index = []
        for row, (example, prefix) in enumerate(zip(examples, prefixes, strict=True)):
            group[row, len(example) :] = -1
            positions[:, row, : example.prefix] = prefix
            start = example.prefix
            for number, branch in enumerate(example.branches, 1):
                group[row, start : start + branch.total] = number
                positions[:, row, start : start + branch.total] = prefix.max() + 1 + np.arange(branch.total)
                index.append((row, start + branch.prompt - 1))
                start += branch.total
        group_t = torch.from_numpy(group)
        same = group_t[:, :, None] == group_t[:, None, :]
        visible = same | (group_t[:, None, :] == 0)
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        return {
            "attention_mask": (visible & causal)[:, None],
            "position_ids": torch.from_numpy(positions if self.family.three_rows else positions[0]),
            "branch_index": torch.tensor(index),
        }

    def _read(self, example: Encoded) -> tuple[Encoded, list[torch.Tensor]]:
        """The example and its images as pixels; muted when an image is broken and `mute_broken` is set."""
        pixels, is_broken = [], False
        for picture in example.images:
            try:
                pixels.append(self.loader.read(picture))
            except ImageError as error:
                if not self.mute_broken:
                    raise
                self.broken[example.name], is_broken = error, True
                try:
                    pixels.append(self.loader.blank(picture))
                except ImageError:  # as many tokens as it has cannot be filled
                    return without_images(example, self.loader.processor.image_token_id).muted(), []
        self._check_tokens(example, pixels)
        return (example.muted() if is_broken else example), pixels

    def _check_tokens(self, example: Encoded, pixels: Sequence[torch.Tensor]) -> None:
        """TokenMismatch unless each image still takes the tokens that the example has for it."""
        if len(example.image_spans) != len(pixels):  # places unknown
            return
        single = len(pixels) == 1
        for (start, stop), own, picture in zip(example.image_spans, pixels, example.images, strict=True):
            needed = self.loader.tokens_of_size(tuple(own.shape[1:]), single)
            if needed != stop - start:
                raise TokenMismatch(
                    f"{example.name}: {picture} ({own.shape[2]} x {own.shape[1]} pixels) takes {needed} "
                    f"tokens, but the example has {stop - start} for it: the file has changed since it was "
                    "tokenised; restore it, or write the token store again"
                )


class TokenMismatch(ValueError):
    """An image takes another number of tokens than its example has for it."""


def without_images(example: Encoded, image_id: int) -> Encoded:
    """The example without its images and their tokens."""
    kept = example.input_ids != image_id
    for start, stop in example.image_spans:  # some families have tokens between an image's rows
        kept[start:stop] = False
    return replace(
        example,
        input_ids=example.input_ids[kept],
        labels=example.labels[kept],
        images=(),
        image_spans=(),
        prefix=int(kept[: example.prefix].sum()),
    )
