"""Inputs that come from outside the store: a model directory, a Hub id, a user's data file.

Each has a hash.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curation import atomic
from recipes.errors import RecipeError
from training.builtin import BUILTIN
from training.hub import HUB_ID, HubModel

TOKENISER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "*.model",
    "chat_template*",
)
PROCESSOR_FILES = (*TOKENISER_FILES, "config.json", "processor*", "preprocessor*")
MODEL_FILES = (*PROCESSOR_FILES, "generation_config.json", "*.safetensors", "*.safetensors.index.json")
SENTENCE_FILES = (*MODEL_FILES, "modules.json", "sentence_bert_config.json", "[0-9]*_*/*")
"""Those of sentence-transformers, whose modules have folders such as 1_Pooling."""


@dataclass(frozen=True)
class External:
    """A path or a model on the Hub, with the hash that identifies its content."""

    path: Path | HubModel
    hash: str

    @property
    def local(self) -> Path:
        """The path. Raises TypeError for a model on the Hub."""
        if isinstance(self.path, HubModel):
            raise TypeError(f"{self.path} is on the Hub and has no local path")
        return self.path


class Fingerprints:
    """Hashes of files outside the store.

    Those of large files and of a pool's images are cached in the folder `cache`. A cached hash is valid while
    the file's size, modification time and inode are unchanged.
    """

    LARGE = 64 << 20

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.known: dict[str, str] = self._load()
        self._images: dict[tuple[tuple[Path, ...], Path, int | None, str | None], str] = {}

    def file(self, path: Path) -> str:
        """sha256 of a file's content."""
        stat = path.stat()
        key = f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        if key in self.known:
            return self.known[key]
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if stat.st_size >= self.LARGE:
            self.known[key] = digest
            self._save()
        return digest

    def files(self, folder: Path, patterns: tuple[str, ...]) -> str:
        """Hash over names and contents of the files in `folder` that match one of `patterns`."""
        found = (p for pattern in patterns for p in folder.glob(pattern) if p.is_file())
        names = sorted({p.relative_to(folder).as_posix() for p in found})
        return _sha256("".join(f"{name}\0{self.file(folder / name)}\n" for name in names))

    def records(self, path: Path) -> int:
        """Number of conversations in a LLaVA JSON or JSONL file, by the key of each: for estimates only."""
        stat = path.stat()
        key = f"records {path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        if key not in self.known:
            self.known[key] = str(_count(path, b'"conversations"'))
            if stat.st_size >= self.LARGE:
                self._save()
        return int(self.known[key])

    def text(self, text: str) -> str:
        """sha256 of a string."""
        return _sha256(text)

    def images(self, files: Sequence[Path], folder: Path, limit: int | None, image_key: str | None) -> str:
        """Hash over the images that files of records name (see recipes/image_prints.py)."""
        from recipes.image_prints import images_hash

        key = (tuple(files), folder, limit, image_key)
        if key not in self._images:
            content = self.text("".join(self.file(file) for file in files))
            self._images[key] = images_hash(files, folder, content, limit, image_key, self.cache)
        return self._images[key]

    def _load(self) -> dict[str, str]:
        """The hashes that an earlier run cached; none if the cache file is damaged."""
        try:
            known = json.loads((self.cache / "files.json").read_text()) if self.cache else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) and all(isinstance(v, str) for v in known.values()) else {}

    def _save(self) -> None:
        if self.cache and self.cache.parent.is_dir():
            self.cache.mkdir(exist_ok=True)
            atomic.write_json(self.cache / "files.json", self.known)


def model(
    path: str,
    revision: str | None,
    where: str,
    prints: Fingerprints,
    files: tuple[str, ...],
    key: str = "base.path",
    needed_by: str = "stages `train` and `pool` need",
) -> External:
    """A checkpoint directory, builtin name or Hub id, from the recipe's `key`.

    A Hub id is identified by its name and revision. Raises RecipeError for a directory without config.json or
    without safetensors weights, and for a path that is none of these.
    """
    folder = BUILTIN.get(path) or expanded(path, where)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError(f"{where}: {key}: {folder} is not a checkpoint: it has no config.json")
        if not any(folder.glob("*.safetensors")):
            raise RecipeError(
                f"{where}: {key}: {folder} has no safetensors weights, and other formats are not loaded; "
                "save it with save_pretrained(safe_serialization=True)"
            )
        return External(folder.resolve(), prints.files(folder.resolve(), files))
    if path not in BUILTIN and re.fullmatch(HUB_ID, path):
        return External(HubModel(path, revision), _sha256(f"hub {path} {revision}"))
    raise RecipeError(
        f"{where}: {key}: {needed_by} {folder}, which does not exist; give a directory, a Hub id "
        f"(organisation/name) or one of {', '.join(BUILTIN)}"
    )


def data_file(path: str, where: str, needed_by: str, prints: Fingerprints) -> External:
    """A user's data file, identified by its content. Raises RecipeError if it does not exist."""
    file = expanded(path, where)
    if not file.is_file():
        raise RecipeError(f"{where}: stage `{needed_by}` needs the file {file}, which does not exist")
    return External(file.resolve(), prints.file(file.resolve()))


@dataclass(frozen=True)
class PoolFiles:
    """What a pool is built from: `given`, as stage `pool` gets it; `files`, those that hold records.

    `text`: the files of these that are JSON, which may name images.
    """

    given: list[External]
    files: tuple[Path, ...]
    text: tuple[Path, ...]


def pool_files(given: Sequence[str], format: str | None, where: str, prints: Fingerprints) -> PoolFiles:
    """The inputs of a pool, identified by the content of all their files.

    Raises RecipeError for one that does not exist, and for one that holds nothing that is read.
    """
    from curation.pool.errors import PoolError
    from curation.pool.inputs.find import find

    inputs, files, text = [], [], []
    for item in given:
        place = expanded(item, where)
        if not place.exists():
            raise RecipeError(f"{where}: stage `pool` needs the file {place}, which does not exist")
        place = place.resolve()
        try:
            found, _ = find([place], format, seed=0)
        except PoolError as error:
            raise RecipeError(f"{where}: pool.source: {error}") from error
        own = list(dict.fromkeys(one.path for one in found))
        named = [place] if place.is_file() and place not in own else []  # a mixture names files
        lines = "".join(f"{_below(file, place)}\0{prints.file(file)}\n" for file in (*named, *own))
        inputs.append(External(place, prints.file(place) if own == [place] else _sha256(lines)))
        files += own
        text += [one.path for one in found if one.kind.partition(":")[0] in ("list", "lines")]
    return PoolFiles(inputs, tuple(files), tuple(dict.fromkeys(text)))


def _below(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def several(files: Sequence[Path], prints: Fingerprints) -> External:
    """Files that a config names, identified together by names and contents; `path` is the first one."""
    lines = "".join(f"{file.name}\0{prints.file(file)}\n" for file in files)
    return External(files[0].resolve(), _sha256(lines))


def images(
    folder: str | None,
    sources: Sequence[Path],
    files: Sequence[Path],
    limit: int | None,
    where: str,
    prints: Fingerprints,
    image_key: str | None = None,
) -> External:
    """The directory of a pool's images (default: that of `sources`), identified by the images it names.

    `files`: those that name images; of a format that holds its images, their content is in the file's.
    """
    folders = {file if file.is_dir() else file.parent for file in sources}
    if folder is None and len(folders) > 1:
        raise RecipeError(
            f"{where}: pool.images: missing; the sources lie in {len(folders)} folders: name the one that "
            "paths of images are relative to"
        )
    place = expanded(folder, where) if folder else folders.pop()
    if not place.is_dir():
        raise RecipeError(f"{where}: stage `pool` needs the directory {place}, which does not exist")
    return External(place.resolve(), prints.images(files, place.resolve(), limit, image_key))


def expanded(path: str, where: str) -> Path:
    """A path of the recipe with `~` expanded.

    Raises RecipeError for an unknown user's home and a NUL character.
    """
    try:
        if "\0" in path:
            raise RecipeError(f"{where}: {path!r} is not a path: it contains a NUL character")
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"{where}: {path}: {error}; write the full path") from error


def _count(path: Path, needle: bytes, block: int = 1 << 24) -> int:
    """How often the bytes occur in a file."""
    found, tail = 0, b""
    with path.open("rb") as stream:
        while chunk := stream.read(block):
            text = tail + chunk
            found += text.count(needle)
            tail = text[len(text) - len(needle) + 1 :]  # shorter than the needle: nothing counts twice
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
