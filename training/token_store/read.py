"""Read a token store: a sequence of encoded examples whose tokens stay in the memory-mapped files."""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from training.plan import Rejected
from training.render import IGNORE, Branch, Encoded, RenderError, fitted
from training.token_store.build import expand
from training.token_store.layout import DRAWN, Info, Shard, StoreMismatch, check_shard, read_info, shard_path

TooLong = Literal["error", "drop", "truncate"]
_OPEN_SHARDS = 512
"""Each open shard holds a file descriptor, of which a process often has 1,024."""
_CHECKERS = 4
_SPREAD = 0x9E3779B97F4A7C15
"""Odd: a product with it, modulo 2**64, is different for each length."""


class TokenStore:
    """The stored rows of a source. No Python object per row: arrays of numbers, and maps of files.

    `lengths`: int32 [rows] of tokens with image tokens, 0 for a rejected row. `labels_count`: tokens with a
    loss. `image_tokens`, `n_images`: likewise. Can be pickled and forked; a copy opens the files again.
    """

    def __init__(self, folder: Path, info: Info) -> None:
        self.folder, self.info = folder, info
        self._opened: OrderedDict[int, Shard] = OrderedDict()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        source: str | None = None,
        renderer: str | None = None,
        images: Path | str | None = None,
        verify: bool = True,
    ) -> "TokenStore":
        """A finished store. `source`: the hash that its samples must have; `renderer`: the fingerprint.

        `images`: where the folder of images is now, if it is not where it was when the store was written.
        `verify`: also compare the checksums of all shards. Raises StoreError for a store that is incomplete
        or damaged, StoreMismatch for one of other samples or of another renderer.
        """
        folder = Path(folder).absolute()
        info = read_info(folder)
        for noun, own, wanted in (
            ("set of samples", info.source, source),
            ("renderer", info.renderer, renderer),
        ):
            if wanted is not None and own != wanted:
                raise StoreMismatch(
                    f"{folder} holds the tokens of a different {noun} ({own}, wanted {wanted}): "
                    "write those that are wanted into another folder"
                )
        with ThreadPoolExecutor(_CHECKERS) as checkers:
            paths = [shard_path(folder, shard) for shard in range(info.shards)]
            list(checkers.map(lambda path: check_shard(path, info.key, verify), paths))
        return cls(folder, info if images is None else replace(info, images=str(images)))

    def __len__(self) -> int:
        return self.info.rows

    def examples(
        self, rows: Sequence[int] | np.ndarray, max_length: int | None = None, too_long: TooLong = "drop"
    ) -> "StoredExamples":
        """The examples of `rows`, in that order; rejected ones are listed, not silently left out.

        What is longer than `max_length` tokens is an error (RenderError), dropped as `too_long`, or truncated
        by `training.render.truncated`.
        """
        return StoredExamples(self, np.asarray(rows, np.int64), max_length, too_long)

    def encoded(self, row: int) -> Encoded:
        """One stored example at its full length. Raises ValueError for a rejected row."""
        shard, at = self._at(row)
        if not shard.length[at]:
            raise ValueError(f"row {row} of {self.folder} was rejected: {shard.details[at].as_py()}")
        start, stop = shard.starts[at], shard.starts[at + 1]
        runs = shard.runs[shard.run_starts[at] : shard.run_starts[at + 1]]
        labelled = shard.label_mask(start, stop)
        ids, labels = expand(shard.tokens[start:stop], labelled, runs, self.info.image_id)
        branches = shard.branches[shard.branch_starts[at] : shard.branch_starts[at + 1]]
        images = self.images(row)
        example = Encoded(
            ids,
            labels,
            tuple(self._image_path(image) for image in images),
            tuple(Branch(**branch) for branch in branches.to_pylist()),
            int(shard.prefix[at]),
            shard.ids[at].as_py(),
            tuple((image["start"], image["stop"]) for image in images),
        )
        # A fault may map a megabyte of the file: after some thousand reads, a rank would seem to use it all.
        shard.release()
        return example

    def images(self, row: int) -> list[dict[str, Any]]:
        """name, drawn, start, stop, height and width of each image of a row."""
        shard, at = self._at(row)
        return shard.images[shard.image_starts[at] : shard.image_starts[at + 1]].to_pylist()

    @cached_property
    def lengths(self) -> np.ndarray:
        return self._column("length")

    @cached_property
    def labels_count(self) -> np.ndarray:
        return self._column("labels")

    @cached_property
    def image_tokens(self) -> np.ndarray:
        return self._column("image_tokens")

    @cached_property
    def n_images(self) -> np.ndarray:
        return self._column("n_images")

    def hashes(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, 16]: hash of each row's content."""
        numbers, places = np.divmod(rows, self.info.shard_rows)
        out = np.empty((len(rows), 16), np.uint8)
        order = np.argsort(numbers, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(rows) else []:
            shard = self._shard(int(numbers[at[0]]))
            out[at] = shard.hash[places[at]]
            shard.release()
        return out

    def name(self, row: int) -> str:
        """The id of a row, without reading its tokens."""
        shard, at = self._at(row)
        return str(shard.ids[at].as_py())

    def rejection(self, row: int) -> tuple[str, str, str]:
        """(id, reason, detail) of a rejected row."""
        shard, at = self._at(row)
        return shard.ids[at].as_py(), shard.reasons[at].as_py(), shard.details[at].as_py()

    def _column(self, name: str) -> np.ndarray:
        parts = []
        for number in range(self.info.shards):
            shard = self._shard(number)
            parts.append(getattr(shard, name).copy())
            shard.release()
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _at(self, row: int) -> tuple[Shard, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a token store with {len(self)} rows")
        number, at = divmod(int(row), self.info.shard_rows)
        return self._shard(number), at

    def _shard(self, number: int) -> Shard:
        shard = self._opened.get(number)
        if shard is None:
            start, stop = self.info.bounds(number)
            shard = Shard(shard_path(self.folder, number), self.info.key, stop - start)
            self._opened[number] = shard
            if len(self._opened) > _OPEN_SHARDS:
                self._opened.popitem(last=False)
        return shard

    def _image_path(self, image: dict[str, Any]) -> Path:
        root = self.folder / DRAWN if image["drawn"] else Path(self.info.images)
        return root / image["name"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.info.images)


def _reopen(folder: Path, images: str) -> TokenStore:
    """The store in another process, without reading all of it again to verify it."""
    return TokenStore.open(folder, images=images, verify=False)


class StoredExamples(Sequence[Encoded]):
    """Examples of a store, in the order of `rows`. Pickled as the store's folder and these arrays.

    `rows` int64 [n]; `lengths`, `labels_count`, `n_images`, `image_tokens` int32 [n]; lengths count image
    tokens, labels_count leaves out the first token, which is never predicted. `rejected`: the rows that were
    asked for and are not among them; their index is the place in what was asked for.
    """

    def __init__(
        self, store: TokenStore, rows: np.ndarray, max_length: int | None = None, too_long: TooLong = "drop"
    ) -> None:
        """See `TokenStore.examples`."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(store):
            raise IndexError(f"rows must be from 0 to {len(store) - 1:,} of the token store {store.folder}")
        self.store, self.rows, self.max_length = store, rows, max_length
        self.lengths, self.labels_count = store.lengths[rows], store.labels_count[rows]
        self.n_images, self.image_tokens = store.n_images[rows], store.image_tokens[rows]
        self.rejected = [
            Rejected(int(i), *store.rejection(rows[i])) for i in np.flatnonzero(self.lengths == 0)
        ]
        if max_length is not None:
            self._shorten(max_length, too_long)
        self._keep()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        example = self.store.encoded(int(self.rows[index]))
        return fitted(example, self.max_length, "truncate")

    @property
    def counts(self) -> dict[str, int]:
        """Number of rejected examples for each reason."""
        return dict(Counter(rejected.reason for rejected in self.rejected))

    def name(self, index: int) -> str:
        """The name of an example, without reading its tokens."""
        return self.store.name(int(self.rows[index]))

    def row_hashes(self) -> np.ndarray:
        """uint64 [n]: a hash of what is trained of each example."""
        whole = np.ascontiguousarray(self.store.hashes(self.rows)[:, :8]).view("<u8")[:, 0]
        # The store's hashes are of whole examples; a truncated one is told by its length.
        return whole + self.lengths.astype(np.uint64) * np.uint64(_SPREAD)

    def fingerprint(self) -> str:
        """sha256 over everything of these examples that decides the outcome of a training, in their order."""
        digest = hashlib.sha256(self.store.hashes(self.rows).tobytes())
        digest.update(self.lengths.astype("<i4").tobytes())
        return digest.hexdigest()

    def _shorten(self, max_length: int, too_long: TooLong) -> None:
        """Deal with the examples that are longer than `max_length`."""
        for index in np.flatnonzero(self.lengths > max_length):
            example = self.store.encoded(int(self.rows[index]))
            try:
                example = fitted(example, max_length, too_long)
            except RenderError as error:
                if too_long == "error":
                    raise
                self.rejected.append(Rejected(int(index), example.name, error.reason, str(error)))
                self.lengths[index] = 0
                continue
            self.lengths[index], self.n_images[index] = len(example), len(example.images)
            self.labels_count[index] = (example.labels[1:] != IGNORE).sum()
            self.image_tokens[index] = (example.input_ids == self.store.info.image_id).sum()

    def _keep(self) -> None:
        """Leave out the rejected ones, whose length is 0."""
        kept = self.lengths > 0
        for name in ("rows", "lengths", "labels_count", "n_images", "image_tokens"):
            setattr(self, name, getattr(self, name)[kept])
        self.rejected.sort(key=lambda rejected: rejected.index)
