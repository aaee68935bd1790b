"""Find what a user's files, folders and names hold, without reading further than their first bytes."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.inputs.given import Sampling
from curation.pool.inputs.kinds import NoRecords, kind_of
from curation.pool.inputs.mixture import read_mixture
from curation.pool.inputs.tables import is_saved, load_hub, saved_files
from curation.printable import printable

_DATA_SUFFIX = re.compile(r"\.(?:json|jsonl|ndjson|parquet|tar|tgz)(?:\.(?:gz|zst))?$", re.I)
_NOT_READ = re.compile(
    r"\.(?:csv|tsv|arrow|feather|h5|hdf5|pkl|pickle|zip|7z|rar|bz2|xz|npz?|lmdb|mdb|db)$", re.I
)
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What `datasets` says about a folder of Parquet files; no records."""
_SHARD_NUMBER = re.compile(r"[-_.]?\d{2,}(?:[-_]of[-_]\d+)?$")
_NO_NAME = {"", "train", "data", "part", "shard", "chunk"}
"""What is left of a shard's name says nothing about its records."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.,()-]+)?")
_NAMED = {"list": "json", "lines": "jsonl", "arrow": "datasets", "tar": "webdataset", "hub": "hub"}


@dataclass(frozen=True, eq=False)  # a mixture may name a file twice
class Found:
    """One file (or dataset) of records. `kind`: as in `kinds`, or `arrow` (a file of a saved dataset), `hub`.

    `source`: of its records that name none. `dataset`: of kind `hub`, whose `path` is its name. `mixed`:
    named by a mixture.
    """

    path: Path
    kind: str
    codec: str | None = None
    source: str | None = None
    take: Sampling | None = None
    dataset: Any = None
    mixed: bool = False

    @property
    def plain(self) -> bool:
        """Whether it can be indexed where it lies."""
        return self.kind in ("list", "lines") and self.codec is None

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    def key(self) -> list[Any]:
        """What its content is known by."""
        own = [self.kind, self.codec, self.source, repr(self.take)]
        if self.dataset is not None:
            return [str(self.path), getattr(self.dataset, "_fingerprint", None), len(self.dataset), *own]
        about = self.path.stat()
        return [str(self.path.resolve()), about.st_size, about.st_mtime_ns, *own]


def find(given: Sequence[Path | str], format: str | None, seed: int) -> tuple[list[Found], tuple[str, ...]]:
    """(the inputs in order, notes for the user). Raises PoolArgumentError or PoolError.

    A folder's files, a mixture's, and several that are given have their names as sources.
    """
    if not given:
        raise PoolArgumentError("give a file, a folder or a dataset's name")
    found: list[Found] = []
    notes: list[str] = []
    for item in given:
        path = Path(item)
        if format == "hub" or _is_hub_name(str(item)):
            found += _hub(str(item))
        elif not path.exists():
            raise PoolArgumentError(f"pool file {path} does not exist")
        elif path.is_dir():
            found += _folder(path, notes)
        elif not path.is_file():  # a pipe has no byte offsets to index by
            raise PoolArgumentError(f"pool file {path} is not a regular file; give a file or a folder")
        else:
            found += _file(path, seed, _source_of(path) if len(given) > 1 else None, notes)
    _check_format(found, format, given)
    return found, tuple(notes)


def format_of(found: list[Found], format: str | None) -> str:
    """What the input was, for pool.json: `json`, `jsonl`, `parquet`, ...; several with `+`."""
    return format or "+".join(sorted({_name(item) for item in found}))


def name_of(path: Path) -> str:
    """A file's name without its suffixes, as a source."""
    return _DATA_SUFFIX.sub("", path.name) or path.name


def _name(item: Found) -> str:
    if item.mixed:
        return "mixture"
    kind, _, encoding = item.kind.partition(":")
    return ".".join([_NAMED.get(kind, kind), *filter(None, [encoding, item.codec])])


def _file(path: Path, seed: int, source: str | None, notes: list[str]) -> list[Found]:
    kind, codec = kind_of(path)
    if kind != "mixture":
        return [Found(path, kind, codec, source)]
    found: list[Found] = []
    for part in read_mixture(path, seed):
        if part.path.is_dir():
            inner = _folder(part.path, notes)
        elif (kind_codec := kind_of(part.path))[0] == "mixture":
            raise PoolError(f"{part.place}: {part.path} is a mixture itself")
        else:
            inner = [Found(part.path, *kind_codec, _source_of(part.path))]
        if len(inner) > 1 and part.take:
            raise PoolError(
                f"{part.place}: a sampling_strategy needs one file, and {part.path} has {len(inner)}"
            )
        found += [replace(item, take=part.take, mixed=True) for item in inner]
    return found


def _folder(folder: Path, notes: list[str]) -> list[Found]:
    if is_saved(folder):
        return [Found(path, "arrow", None, source) for source, path in saved_files(folder)]
    found, others, empty = [], [], None
    for path in _walk(folder):
        if not _DATA_SUFFIX.search(path.name) or path.name in _ABOUT:
            others += [path] if _NOT_READ.search(path.name) else []
            continue
        try:
            kind, codec = kind_of(path)
        except NoRecords as error:
            others.append(path)
            empty = empty or error
            continue
        found.append(Found(path, kind, codec, _source_of(path, folder)))
    if not found and empty:
        raise empty
    if not found and others:
        kind_of(others[0])  # which says what it is, and what to do
    if not found:
        raise PoolArgumentError(
            f"folder {folder} holds no records: no file in it ends with .json, .jsonl, .parquet or .tar"
        )
    if others:
        names = ", ".join(printable(path.name) for path in others[:3])
        notes.append(f"{len(others)} file(s) of {folder} without records were left out: {names}")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, by name, those of inner folders last, without hidden ones."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            Path(root, name) for name in sorted(files) if name[0] != "." and Path(root, name).is_file()
        )


def _source_of(path: Path, folder: Path | None = None) -> str | None:
    """The file's name (its path below the folder) without suffixes; of Parquet and tar, without numbers.

    `vqa-000017.tar` is of source `vqa`, and `CONFIG/train-00000-of-00005.parquet` of CONFIG.
    """
    below = (path.relative_to(folder) if folder else Path(path.name)).with_name(name_of(path))
    if "json" in path.name.lower():
        return below.as_posix()
    parts = [*below.parent.parts, _SHARD_NUMBER.sub("", below.name)]
    return "/".join(part for part in parts if part.lower() not in _NO_NAME) or None


def _is_hub_name(name: str) -> bool:
    """Whether it can only be a dataset's name: neither a path here nor, it seems, a wrong one."""
    path = Path(name)
    known = path.exists() or path.parent.exists() or name.startswith(".") or _DATA_SUFFIX.search(name)
    return bool(_HUB.fullmatch(name)) and not known


def _hub(name: str) -> list[Found]:
    return [Found(Path(name), "hub", None, config, None, dataset) for config, dataset in load_hub(name)]


def _check_format(found: list[Found], format: str | None, given: Sequence[Path | str]) -> None:
    if format in (None, "hub"):
        return
    paths = [Path(item) for item in given]
    if format == "folder" and not all(path.is_dir() for path in paths):
        raise PoolArgumentError(f"--format folder, but {next(p for p in paths if not p.is_dir())} is none")
    if format == "mixture" and not all(kind_of(path)[0] == "mixture" for path in paths if path.is_file()):
        raise PoolArgumentError(f"--format mixture, but {paths[0]} is none")
    if format in ("folder", "mixture"):
        return
    if other := next((item for item in found if _name(item).split(".")[0] != format), None):
        raise PoolArgumentError(f"--format {format}, but {other.path} is {_name(other)}")
