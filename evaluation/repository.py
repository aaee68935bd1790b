"""A dataset repository in a local folder: which Parquet files a split has, and the hashes of files.

Configurations and splits are resolved from the front matter of README.md (`configs:`), or from the names of
the Parquet files where there is none. Nothing is looked up anywhere else.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from curation import atomic

RECORD = ".winnow.json"
"""What a download leaves beside the files: repository, revision, size and sha256 of each file."""
Patterns = Mapping[str, Sequence[str]]
"""Glob patterns of the files of each split."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


class MirrorError(RuntimeError):
    """Benchmark data that are missing, incomplete or not what a suite expects."""


@dataclass(frozen=True)
class Record:
    """Content of a `.winnow.json`; `files`: size in bytes and sha256 by name."""

    repo: str
    revision: str
    files: Mapping[str, tuple[int, str]]


class Repository:
    """The folder of one repository, `MIRROR/organisation/name`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def files(self, config: str | None, split: str) -> list[Path]:
        """The Parquet files of a split, in order.

        Raises MirrorError if there is no such configuration or split (it names those that exist), or if files
        are missing.
        """
        patterns = self._patterns(config)
        if split not in patterns:
            own = f" of configuration {config!r}" if config else ""
            known = ", ".join(patterns) or "none"
            raise MirrorError(f"{self.folder}: no split {split!r}{own}; it has {known}")
        found = {file for pattern in patterns[split] for file in self._glob(pattern)}
        if not found:
            named = ", ".join(patterns[split])
            raise MirrorError(
                f"{self.folder}: split {split!r} has no files ({named}): "
                "the download is incomplete, fetch it again"
            )
        files = sorted(found)
        self._check_parquet(files)
        return files

    def record(self) -> Record | None:
        """What was fetched; None for a folder that came here in another way. Raises MirrorError."""
        path = self.folder / RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {name: (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
            return Record(content["repo"], content["revision"], files)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MirrorError(f"{path} is not a record of a download: fetch the repository again") from error

    def check_record(self, files: Sequence[Path], hashes: "Hashes", revision: str | None) -> None:
        """Raises MirrorError if files differ from what was fetched, or the revision from the one expected.

        Without a record, only an expected revision is an error: nobody can tell what the files are.
        """
        record = self.record()
        if revision and (record is None or record.revision != revision):
            held = f"is at revision {record.revision}" if record else "does not say its revision"
            raise MirrorError(f"{self.folder} {held}, not {revision}: fetch it again")
        if record is None:
            return
        for file in files:
            name = file.relative_to(self.folder).as_posix()
            if name not in record.files:
                raise MirrorError(f"{file} is not among the files that were fetched: fetch {self.name} again")
            if hashes.of(file) != record.files[name][1]:
                raise MirrorError(f"{file} has changed since it was fetched: fetch {self.name} again")

    def _patterns(self, config: str | None) -> Patterns:
        """Patterns of all splits of a configuration. Raises MirrorError for an unknown one."""
        configs = configs_of(self.folder / "README.md")
        if not configs:
            return self._by_name(config)
        chosen = config or default_config(configs)
        if chosen not in configs:
            asked = f"no configuration {config!r}" if config else "no default configuration"
            raise MirrorError(f"{self.folder}: {asked}; it has {', '.join(configs)}")
        entry = configs[chosen]
        return patterns_of(entry) or self._by_name(entry.get("data_dir") or chosen)

    def _by_name(self, config: str | None) -> Patterns:
        """Splits by file names: in the folder of a configuration, or in `data` and the top folder."""
        places = [config] if config else ["data", "."]
        splits: dict[str, list[str]] = {}
        for place in places:
            for file in sorted((self.folder / place).glob("*.parquet")):
                split = _SHARD.split(file.name.removesuffix(".parquet"))[0]
                splits.setdefault(split, []).append(file.relative_to(self.folder).as_posix())
        if config and not splits:
            folders = sorted({file.parent.name for file in self.folder.glob("*/*.parquet")})
            raise MirrorError(
                f"{self.folder}: no configuration {config!r} (README.md names none); "
                f"folders with Parquet files: {', '.join(folders) or 'none'}"
            )
        return splits

    def _glob(self, pattern: str) -> list[Path]:
        """Files of a pattern, without those in hidden folders (parts of downloads)."""
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or "://" in pattern:
            raise MirrorError(f"{self.folder / 'README.md'}: data file {pattern!r} is outside the repository")
        return [
            file
            for file in self.folder.glob(pattern)
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(self.folder).parts)
        ]

    def _check_parquet(self, files: Sequence[Path]) -> None:
        """MirrorError for a file of another format, or missing from a series `name-00000-of-00004...`."""
        series: dict[tuple[Path, str, int], set[int]] = {}
        for file in files:
            if file.suffix != ".parquet":
                raise MirrorError(f"{file} is not a Parquet file; only Parquet files can be read")
            if match := _SHARD.search(file.name):
                key = (file.parent, file.name[: match.start()], int(match[2]))
                series.setdefault(key, set()).add(int(match[1]))
        for (folder, name, total), found in series.items():
            if missing := sorted(set(range(total)) - found):
                raise MirrorError(
                    f"{folder}: {len(missing)} of {total} files are missing, the first is "
                    f"{name}-{missing[0]:05d}-of-{total:05d}: fetch {self.name} again"
                )


def configs_of(readme: Path) -> dict[str, Mapping[str, Any]]:
    """The entries of `configs:` in the front matter of a README.md, by name. Raises MirrorError."""
    import yaml

    try:
        text = readme.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise MirrorError(f"{readme} is not UTF-8: fetch the repository again") from error
    front = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        content = yaml.safe_load(front[1]) if front else {}
        return {entry.get("config_name", "default"): entry for entry in (content or {}).get("configs", ())}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise MirrorError(f"{readme}: the front matter has no valid `configs:`") from error


def default_config(configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The configuration that is meant if none is named: marked or named default, or the only one."""
    marked = [name for name, entry in configs.items() if entry.get("default")]
    if marked:
        return marked[0]
    return "default" if "default" in configs else next(iter(configs)) if len(configs) == 1 else None


def patterns_of(entry: Mapping[str, Any]) -> Patterns:
    """File patterns of each split of an entry of `configs:`; empty if it names no files.

    `data_files` may be a pattern, a list of patterns (both: split train), or a list of {split, path}.
    """
    files = entry.get("data_files") or []
    entries = [files] if isinstance(files, str | Mapping) else files
    prefix = f"{entry['data_dir'].rstrip('/')}/" if entry.get("data_dir") else ""
    splits: dict[str, list[str]] = {}
    for item in entries:
        item = {"split": "train", "path": item} if isinstance(item, str) else item
        paths = [item["path"]] if isinstance(item["path"], str) else item["path"]
        splits.setdefault(str(item["split"]), []).extend(prefix + path for path in paths)
    return splits


def write_record(folder: Path, record: Record) -> None:
    """Write the `.winnow.json` of a repository; the last step of a download."""
    files = {name: list(record.files[name]) for name in sorted(record.files)}
    atomic.write_json(folder / RECORD, {"repo": record.repo, "revision": record.revision, "files": files})


class Hashes:
    """sha256 of files below `root`, kept in the JSON file `path` by size and time of change.

    So data are read once, not by each process that asks for their identity. `fresh` reads every file again.
    """

    def __init__(self, path: Path, root: Path, fresh: bool = False) -> None:
        self.path, self.root = path, root
        self._known: dict[str, list[Any]] | None = {} if fresh else None

    def of(self, file: Path) -> str:
        """The hash of a file's content. Raises MirrorError if it cannot be read."""
        try:
            stat = file.stat()
            key, mark = file.relative_to(self.root).as_posix(), [stat.st_size, stat.st_mtime_ns]
            known = self._read()
            if known.get(key, [])[:2] != mark:
                known[key] = [*mark, sha256(file)]
                self.path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(self.path, known)
        except OSError as error:
            raise MirrorError(f"{file} cannot be read: {error.strerror}") from error
        return known[key][2]

    def _read(self) -> dict[str, list[Any]]:
        if self._known is None:
            try:
                self._known = dict(json.loads(self.path.read_text(encoding="utf-8")))
            except (FileNotFoundError, ValueError, TypeError):
                self._known = {}  # a cache: what it lacks is computed
        return self._known


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
