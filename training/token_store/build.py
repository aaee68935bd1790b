"""From encoded examples to the columns of one shard."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from training.images import ImageError, image_size
from training.render import IGNORE, Encoded, RenderError
from training.token_store.layout import BRANCH, DRAWN, IMAGE, Info, schema

TOKEN_TYPES = {"uint16": pa.uint16(), "uint32": pa.uint32()}


def token_type(vocabulary: int) -> str:
    """The smallest type that holds the ids below `vocabulary`."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def compact(ids: np.ndarray, image_id: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions that are stored, lengths of the runs of image tokens): of each run, its first token is.

    A run is not an image: two images side by side are one run, and an image with tokens between its rows has
    several.
    """
    is_image = ids == image_id
    if not is_image.any():
        return np.arange(len(ids)), np.zeros(0, np.uint32)
    stored = np.flatnonzero(~is_image | np.concatenate([[True], ~is_image[:-1]]))
    counts = np.diff(stored, append=len(ids))
    return stored, counts[is_image[stored]].astype(np.uint32)


def expand(tokens: np.ndarray, labelled: np.ndarray, runs: np.ndarray, image_id: int) -> tuple[Any, Any]:
    """Input ids and labels int32 [T] of stored tokens, each run of image tokens at its length; copies."""
    ids = tokens.astype(np.int32)
    labels = np.where(labelled, ids, np.int32(IGNORE))
    if len(runs):
        repeats = np.ones(len(ids), np.int64)
        repeats[ids == image_id] = runs
        ids, labels = np.repeat(ids, repeats), np.repeat(labels, repeats)
    return ids, labels


class Columns:
    """Collects the rows of a shard, good and rejected ones, in order."""

    def __init__(self, info: Info, folder: str) -> None:
        self.info, self._roots = info, (f"{folder}/{DRAWN}/", f"{info.images.rstrip('/')}/")
        self._rows: dict[str, list[Any]] = {field.name: [] for field in schema(pa.uint32())}
        self._counts: dict[str, list[int]] = {name: [] for name in ("tokens", "runs", "images", "branches")}

    def add(self, example: Encoded) -> None:
        """One encoded example. Raises RenderError and ImageError, and then adds nothing."""
        self._check(example)
        images = self._images(example)
        stored, runs = compact(example.input_ids, self.info.image_id)
        tokens = example.input_ids[stored].astype(np.uint32)
        labelled = example.labels[stored] != IGNORE
        self._append(
            id=example.name,
            tokens=tokens,
            labelled=labelled,
            runs=runs,
            images=images,
            branches=[branch._asdict() for branch in example.branches],
            prefix=example.prefix,
            length=len(example),
            labels=int((example.labels[1:] != IGNORE).sum()),
            image_tokens=int(runs.sum()),
            hash=_row_hash(tokens, runs, labelled, images, example),
        )

    def reject(self, name: str, error: RenderError | ImageError) -> None:
        """One example that cannot be trained on, with its reason."""
        none = np.zeros(0, np.uint32)
        detail = str(error).encode("utf-8", "replace").decode()
        key = hashlib.blake2b(f"rejected {name} {error.reason}".encode("utf-8", "replace"), digest_size=16)
        self._append(
            id=name,
            tokens=none,
            labelled=none.astype(bool),
            runs=none,
            images=[],
            branches=[],
            prefix=0,
            length=0,
            labels=0,
            image_tokens=0,
            hash=key.digest(),
            reason=error.reason,
            detail=detail,
            unreadable=self._name(str(error.path))[0] if isinstance(error, ImageError) else None,
        )

    def batch(self) -> pa.RecordBatch:
        """All rows as one Arrow record batch."""
        fields = schema(TOKEN_TYPES[self.info.token_type])
        rows, columns = self._rows, []
        tokens = _joined(rows["tokens"], np.uint32).astype(self.info.token_type)
        labelled = _joined(rows["labelled"], bool)
        for name, values in (("tokens", tokens), ("labelled", labelled)):
            starts = pa.array(_starts(self._counts["tokens"], np.int64))
            rows[name] = pa.LargeListArray.from_arrays(starts, pa.array(values))
        runs = pa.array(_joined(rows["runs"], np.uint32))
        rows["runs"] = _list(self._counts["runs"], runs)
        rows["images"] = _list(self._counts["images"], pa.array(_flat(rows["images"]), IMAGE))
        rows["branches"] = _list(self._counts["branches"], pa.array(_flat(rows["branches"]), BRANCH))
        for field in fields:
            column = rows[field.name]
            columns.append(pa.array(column, field.type) if isinstance(column, list) else column)
        return pa.record_batch(columns, schema=fields)

    def _append(self, **row: Any) -> None:
        for name, values in self._rows.items():
            values.append(row.get(name))
        for name, counts in self._counts.items():
            counts.append(len(row[name]))

    def _images(self, example: Encoded) -> list[dict[str, Any]]:
        images = []
        for picture, (start, stop) in zip(example.images, example.image_spans, strict=True):
            name, drawn = self._name(str(picture))
            height, width = image_size(picture)  # reads the header also where the tokens do not depend on it
            images.append(dict(name=name, drawn=drawn, start=start, stop=stop, height=height, width=width))
        return images

    def _name(self, path: str) -> tuple[str, bool]:
        """Path below the folder of images, and whether it is one that was drawn."""
        drawn, root = self._roots
        if path.startswith(drawn):
            return path[len(drawn) :], True
        return path.removeprefix(root), False

    def _check(self, example: Encoded) -> None:
        """RenderError for an example without loss; ValueError for one that the layout cannot hold."""
        carries = example.labels != IGNORE
        if not carries[1:].any():  # the first token is never predicted
            raise RenderError("no_assistant_turn", f"{example.name}: no token carries a loss")
        if not np.array_equal(example.labels[carries], example.input_ids[carries]):
            raise ValueError(f"{example.name}: a label must be the token at its own place, or {IGNORE}")
        if len(example.image_spans) != len(example.images):
            raise ValueError(f"{example.name}: the places of its images are not known")
        if carries[example.input_ids == self.info.image_id].any():
            raise ValueError(f"{example.name}: an image token cannot carry a label")
        top = np.iinfo(self.info.token_type).max
        if example.input_ids.max() > top or example.input_ids.min() < 0:
            raise ValueError(f"{example.name}: token ids must be from 0 to {top}, as the vocabulary's are")


def _row_hash(
    tokens: np.ndarray,
    runs: np.ndarray,
    labelled: np.ndarray,
    images: Sequence[dict[str, Any]],
    example: Encoded,
) -> bytes:
    """16 bytes over what is trained: tokens, labels, image lengths and names, branches."""
    names = [(image["name"], image["drawn"], image["start"], image["stop"]) for image in images]
    head = repr([len(tokens), len(runs), names, [tuple(b) for b in example.branches], example.prefix])
    digest = hashlib.blake2b(head.encode("utf-8", "surrogateescape"), digest_size=16)
    for array in (tokens.astype("<u4"), runs.astype("<u4"), np.packbits(labelled)):
        digest.update(array.tobytes())
    return digest.digest()


def _starts(counts: Sequence[int], kind: Any) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(kind)


def _joined(arrays: list[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, kind)


def _flat(lists: list[list[Any]]) -> list[Any]:
    return [item for items in lists for item in items]


def _list(counts: list[int], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(_starts(counts, np.int32)), values)
