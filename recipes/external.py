"""Inputs that no stage makes: a model directory, a hub id, a user's data file. Each has a content hash."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from recipes.errors import RecipeError
from training.hub import BUILTIN, HUB_ID, HubModel

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


@dataclass(frozen=True)
class External:
    """A path, or a model on the hub, with the hash of what is there."""

    path: Path | HubModel
    hash: str


class Fingerprints:
    """Hashes of files; those of large files are remembered in `cache` by path, size and time of change."""

    LARGE = 64 << 20

    def __init__(self, cache: Path | None = None):
        self.cache = cache
        self.known: dict[str, str] = json.loads(cache.read_text()) if cache and cache.is_file() else {}

    def file(self, path: Path) -> str:
        """sha256 of a file's content."""
        stat = path.stat()
        key = f"{path} {stat.st_size} {stat.st_mtime_ns}"
        if key in self.known:
            return self.known[key]
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if stat.st_size >= self.LARGE:
            self.known[key] = digest
            self._save()
        return digest

    def files(self, folder: Path, patterns: tuple[str, ...]) -> str:
        """Hash over names and contents of the files in `folder` that match."""
        names = sorted({p.name for pattern in patterns for p in folder.glob(pattern) if p.is_file()})
        return _sha256("".join(f"{name}\0{self.file(folder / name)}\n" for name in names))

    def _save(self) -> None:
        if self.cache and self.cache.parent.is_dir():
            temporary = self.cache.with_name(f"{self.cache.name}.{os.getpid()}")
            temporary.write_text(json.dumps(self.known))
            os.replace(temporary, self.cache)


def model(
    path: str,
    revision: str | None,
    where: str,
    prints: Fingerprints,
    files: tuple[str, ...],
    key: str = "base.path",
    wanted_by: str = "stages `train` and `pool` want",
) -> External:
    """A checkpoint directory, builtin name or hub id, as the recipe's `key` gives it. A hub id is identified by its name and revision."""
    folder = BUILTIN.get(path, Path(path).expanduser())
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError(f"{where}: {key}: {folder} is no checkpoint: it has no config.json")
        return External(folder.resolve(), prints.files(folder.resolve(), files))
    if path not in BUILTIN and re.fullmatch(HUB_ID, path):
        return External(HubModel(path, revision), _sha256(f"hub {path} {revision}"))
    known = ", ".join(BUILTIN)
    raise RecipeError(
        f"{where}: {key}: {wanted_by} {folder}, which does not exist; "
        f"give a directory, a hub id (organisation/name) or one of: {known}"
    )


def data_file(path: str, where: str, wanted_by: str, prints: Fingerprints) -> External:
    """A user's data file, identified by its content."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"{where}: stage `{wanted_by}` wants the file {file}, which does not exist")
    return External(file.resolve(), prints.file(file.resolve()))


def folder(path: str, where: str, wanted_by: str) -> External:
    """A directory that is too large to be hashed: identified by its path."""
    found = Path(path).expanduser()
    if not found.is_dir():
        raise RecipeError(f"{where}: stage `{wanted_by}` wants the directory {found}, which does not exist")
    return External(found.resolve(), _sha256(f"folder {found.resolve()}"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
