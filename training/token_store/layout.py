"""The files of a token store: store.json, numbered shards, and the images that were drawn on the fly.

    STORE/store.json          what the tokens are of: source, renderer, rows, rows of a shard, token type
    STORE/00000.shard         a line of text (key, size, checksum), then one Arrow record batch
    STORE/drawn/HASH.png      images that were given as PIL objects

A shard is written under a temporary name and renamed, so a shard that exists is whole; its size and checksum
tell when it has been damaged since. Its content depends on its rows and its key alone, so it does not matter
which of several writers was the last.
"""

import hashlib
import json
import mmap
import os
import socket
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation import killpoints

FORMAT = 1
"""Part of every key: a store of another layout is refused, not misread."""
INFO = "store.json"
DRAWN = "drawn"
HEADER_BYTES = 128
_MAGIC = "winnow-tokens"
_BLOCK = 1 << 20
_STALE_SECONDS = 3600
"""No writer takes as long for one file: an older temporary file belongs to one that was killed."""

IMAGE = pa.struct(
    [
        ("name", pa.string()),
        ("drawn", pa.bool_()),
        ("start", pa.int32()),
        ("stop", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)
"""`name`: path below the folder of images; `start`, `stop`: its tokens, all runs expanded."""
BRANCH = pa.struct([("prompt", pa.int32()), ("total", pa.int32())])


def schema(token_type: pa.DataType) -> pa.Schema:
    """Columns of a shard, one row for each row of the source, rejected ones included.

    `tokens`: each run of image tokens is stored as one; `runs` has the lengths of the runs. `labelled`:
    whether a stored token carries a loss (its label is the token itself). `length`: tokens with the runs
    expanded, 0 for a rejected row. `labels`: tokens with a loss, without the first, which is never predicted.
    `hash`: of everything that decides what is trained. `reason`, `detail`: null unless rejected;
    `unreadable`: the image that was the reason.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("tokens", pa.large_list(token_type)),
            ("labelled", pa.large_list(pa.bool_())),
            ("runs", pa.list_(pa.uint32())),
            ("images", pa.list_(IMAGE)),
            ("branches", pa.list_(BRANCH)),
            ("prefix", pa.int32()),
            ("length", pa.int32()),
            ("labels", pa.int32()),
            ("image_tokens", pa.int32()),
            ("hash", pa.binary(16)),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("unreadable", pa.string()),
        ]
    )


class StoreError(ValueError):
    """A token store that is incomplete or damaged; the message says which part and what to do."""


class StoreMismatch(StoreError):
    """The folder holds the tokens of other samples, or of another renderer."""


@dataclass(frozen=True)
class Info:
    """store.json. `source`, `renderer`: hashes of the samples and of the rules; `images`: their folder."""

    source: str
    renderer: str
    rows: int
    shard_rows: int
    token_type: str
    image_id: int
    images: str
    format: int = FORMAT

    @cached_property
    def key(self) -> str:
        """32 hex digits over everything but the place of the images."""
        parts = asdict(self)
        del parts["images"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the row after its last."""
        return shard * self.shard_rows, min(self.rows, (shard + 1) * self.shard_rows)

    def check_same(self, other: "Info", folder: Path) -> None:
        """Raise StoreMismatch when `other`, which is wanted, is not what `folder` holds."""
        nouns = {"format": "layout", "source": "set of samples", "rows": "number of samples"}
        nouns |= {"renderer": "tokenizer, template, rules or image mode", "token_type": "token type"}
        for name in ("format", "source", "rows", "renderer", "token_type", "image_id"):
            own, wanted = getattr(self, name), getattr(other, name)
            if own != wanted:
                raise StoreMismatch(
                    f"{folder} holds tokens of a different {nouns.get(name, name)} ({own}, wanted {wanted}): "
                    "write into another folder, or remove this one"
                )


def read_info(folder: Path) -> Info:
    """store.json of a store. Raises StoreError."""
    path = folder / INFO
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no token store ({INFO} does not exist): write it first") from None
    except ValueError as error:
        raise StoreError(
            f"{path} is not valid JSON ({error}): remove the folder and write it again"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreMismatch(f"{path} does not describe a token store of layout {FORMAT}: write it again")
    return Info(**content)


def begin(folder: Path, wanted: Info) -> Info:
    """Create the store, or continue the one that is there; returns its Info, with the images of `wanted`.

    The rows of a shard are those of the store that is there. Raises StoreMismatch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    path, text = folder / INFO, json.dumps(asdict(wanted), indent=1) + "\n"
    if not path.exists():
        with _temporary(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            try:
                os.link(temporary, path)  # unlike a rename, fails where another writer was the first
            except FileExistsError:
                pass
    own = read_info(folder)
    own.check_same(wanted, folder)
    if own.images != wanted.images:
        own = Info(**{**asdict(own), "images": wanted.images})
        with _replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(own), indent=1) + "\n", encoding="utf-8")
    return own


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.shard"


def save_shard(path: Path, key: str, batch: pa.RecordBatch) -> None:
    """Write one shard, whole or not at all. Raises OSError, as on a full disk."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = sink.getvalue()
    header = f"{_MAGIC} {FORMAT} key={key} bytes={body.size} crc32={zlib.crc32(body):08x}"
    save(path, header.ljust(HEADER_BYTES - 1).encode() + b"\n", body)


def save(path: Path, *parts: Any) -> None:
    """Write bytes atomically. Raises OSError with what to do; nothing is left under the final name then."""
    try:
        with _replacing(path) as temporary, temporary.open("wb") as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: {path} cannot be written; make room, then run the same command again: "
            "finished shards are kept",
        ) from error


class Shard:
    """One open shard, memory-mapped; arrays are views of the file. Raises StoreError unless it is whole."""

    def __init__(self, path: Path, key: str, rows: int) -> None:
        check_shard(path, key)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            batch = pa.ipc.open_file(pa.py_buffer(self._map).slice(HEADER_BYTES)).get_batch(0)
        except pa.ArrowInvalid as error:
            raise _damaged(path, str(error)) from error
        if batch.num_rows != rows:
            raise _damaged(path, f"{batch.num_rows:,} rows instead of {rows:,}")
        self.ids, self.reasons, self.details = batch["id"], batch["reason"], batch["detail"]
        self.unreadable = batch["unreadable"]
        self.tokens, self.starts = _values(batch["tokens"])
        self.labelled = np.frombuffer(batch["labelled"].values.buffers()[1] or b"", np.uint8)
        self.runs, self.run_starts = _values(batch["runs"])
        self.images, self.image_starts = batch["images"].values, batch["images"].offsets.to_numpy()
        self.branches, self.branch_starts = batch["branches"].values, batch["branches"].offsets.to_numpy()
        self.prefix = batch["prefix"].to_numpy()
        self.length, self.labels = batch["length"].to_numpy(), batch["labels"].to_numpy()
        self.image_tokens = batch["image_tokens"].to_numpy()
        self.hash = np.frombuffer(batch["hash"].buffers()[1], np.uint8).reshape(rows, 16)

    def release(self) -> None:
        """Give back the pages that reads have mapped; what is read again is mapped again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux; elsewhere the system alone decides
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def n_images(self) -> np.ndarray:
        """int32 [rows]: images of each row."""
        return np.diff(self.image_starts)

    def label_mask(self, start: int, stop: int) -> np.ndarray:
        """bool [stop - start]: whether the stored tokens from `start` carry a loss."""
        bits = np.unpackbits(self.labelled[start // 8 : (stop + 7) // 8], bitorder="little")
        return bits[start % 8 : start % 8 + stop - start].view(bool)


def check_shard(path: Path, key: str, checksum: bool = False) -> None:
    """Raise StoreError for a shard that is missing, of another store, or cut short; or changed (`checksum`).

    The checksum reads the whole file, in blocks, so that it does not count as memory of the process.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES).decode("ascii", "replace").split()
            if len(header) != 5 or header[:2] != [_MAGIC, str(FORMAT)]:
                raise _damaged(path, "its first line is not that of a shard")
            own, size, crc = (field.partition("=")[2] for field in header[2:])
            if own != key:
                raise StoreMismatch(f"{path} belongs to another store ({own}, wanted {key}): remove it")
            if (bytes_ := os.fstat(file.fileno()).st_size - HEADER_BYTES) != int(size):
                raise _damaged(path, f"{bytes_:,} bytes instead of {int(size):,}")
            if checksum and f"{_crc(file):08x}" != crc:
                raise _damaged(path, "its checksum differs")
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist: write the store again, finished shards are kept") from None


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged ({what}): write the store again, which rebuilds this shard alone")


def _crc(file: Any) -> int:
    value, block = 0, memoryview(bytearray(_BLOCK))
    while count := file.readinto(block):
        value = zlib.crc32(block[:count], value)
    return value


def _values(lists: Any) -> tuple[np.ndarray, np.ndarray]:
    return lists.values.to_numpy(zero_copy_only=True), lists.offsets.to_numpy()


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # Process ids repeat between the containers and nodes that write to one file system.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    with _temporary(path) as temporary:
        yield temporary
        killpoints.reach("before rename")
        os.replace(temporary, path)
        killpoints.reach("after rename")


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of killed writers, but never one that may still be written."""
    for temporary in [*folder.glob(".*.tmp"), *(folder / DRAWN).glob(".*.tmp")]:
        try:
            if time.time() - temporary.stat().st_mtime > _STALE_SECONDS:
                temporary.unlink()
        except FileNotFoundError:  # another writer has finished or removed it
            pass
