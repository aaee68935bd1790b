"""The content-addressed store: store/<kind>/<hash12>/ with an artefact, stage.json and, last, done.json.

A directory without done.json is unfinished. done.json contains the sha256 of every file, so that an artefact
whose content changed later is detected before another stage reads it. <hash12>.seen, beside the directory,
records size, modification time and inode of each verified file: while these are unchanged, the content is not
read again.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation import atomic, killpoints
from recipes.errors import StoreError

OWN_FILES = {"begun.json", "stage.json", "done.json"}
TIMED = (".log", ".log.jsonl")
"""Endings of files with times and speeds, which are verified but not part of the root hash."""

DISK_ADVICE = {
    errno.ENOSPC: "free some space there, or keep store/ and runs/ on another disk with root=DIR",
    errno.EDQUOT: "your quota is used up: free some space, or keep store/ and runs/ elsewhere with root=DIR",
    errno.EROFS: "choose a writable place with root=DIR",
    errno.EACCES: "choose a writable place with root=DIR",
    errno.EPERM: "choose a writable place with root=DIR",
    errno.ENOTDIR: "a part of the path is a file: choose another place with root=DIR",
    errno.EEXIST: "a file has this name: choose another place with root=DIR",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def disk_problem(error: OSError, path: Path | str) -> str | None:
    """The message for the user if the error means that the disk is full or not writable, else None."""
    if error.errno not in DISK_ADVICE:
        return None
    return f"cannot write {error.filename or path}: {os.strerror(error.errno)}; {DISK_ADVICE[error.errno]}"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the error of a full or read-only disk into a StoreError with the path and what to do."""
    try:
        yield
    except OSError as error:
        if (advice := disk_problem(error, path)) is None:
            raise
        raise StoreError(advice) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises StoreError if the disk is full or not writable."""
    with explained(path):
        atomic.write_text(path, text)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. Raises StoreError if the disk is full or not writable."""
    with explained(path):
        atomic.write_json(path, value)


# ------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Done:
    """The content of done.json.

    hash: of the stage. root: over the artefact's files. record: sha256 of stage.json. files: (sha256, size in
    bytes).
    """

    hash: str
    root: str
    record: str
    files: dict[str, tuple[str, int]]


class Damaged(ValueError):
    """A file of an artefact is missing or unreadable, or its content has changed."""


def check(path: Path, digest: str, *, full: bool = False) -> str:
    """State of the artefact of the stage with that hash: `done`, `absent`, `unfinished` or `damaged: why`.

    full: read every file, including those whose size, time and inode are as they were when last verified.
    """
    if not os.path.lexists(path):
        return "absent"
    try:
        if not path.is_dir():
            raise Damaged("it is not a directory")
        if not (path / "done.json").is_file():
            return "unfinished"
        done = read_done(path)
        if done.hash != digest:
            raise Damaged("done.json belongs to another stage")
        _verify(path, done, full)
        read_record(path)
    except Damaged as problem:
        return f"damaged: {problem}"
    return "done"


def read_done(path: Path) -> Done:
    """done.json of an artefact. Raises Damaged unless it has the expected form."""
    content = read_object(path / "done.json")
    try:
        files = {str(name): (str(f["sha256"]), int(f["size"])) for name, f in content["files"].items()}
        return Done(str(content["hash"]), str(content["root"]), str(content["record"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged("done.json does not have the form of a finished stage") from error


def read_record(path: Path) -> dict[str, Any]:
    """stage.json of a finished artefact. Raises Damaged unless it has the expected form."""
    record = read_object(path / "stage.json")
    number = (int, float)
    types: dict[str, type | tuple[type, ...]] = {
        "seconds": number,
        "work": number,
        "summary": dict,
        "kind": str,
        "name": str,
    }
    if wrong := [key for key, kind in types.items() if not isinstance(record.get(key), kind)]:
        raise Damaged(f"stage.json lacks a valid `{wrong[0]}`")
    return record


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises Damaged for any other content."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{file.name} is not readable") from error
    if not isinstance(content, dict):
        raise Damaged(f"{file.name} is not a JSON object")
    return content


def _verify(path: Path, done: Done, full: bool) -> None:
    """Raises Damaged for the first file that differs; records the verified files in <hash12>.seen."""
    before = {} if full else _read_seen(path)
    seen = {}
    for name, (digest, size) in {**done.files, "stage.json": (done.record, -1)}.items():
        try:
            stat = os.stat(path / name)
            mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            if size >= 0 and stat.st_size != size:
                raise Damaged(f"{name} has {stat.st_size} bytes instead of {size}")
            if before.get(name) != mark and _sha256(path / name) != digest:
                raise Damaged(f"the content of {name} has changed")
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        seen[name] = mark
    if seen != before:
        _write_seen(path, seen)


def _read_seen(path: Path) -> dict[str, Any]:
    try:
        return read_object(_seen(path))
    except Damaged:
        return {}


def _write_seen(path: Path, seen: dict[str, list[int]]) -> None:
    with contextlib.suppress(OSError):  # a read-only store is verified again each time
        atomic.write_text(_seen(path), json.dumps(seen))


def _seen(path: Path) -> Path:
    return path.with_name(f"{path.name}.seen")


# ------------------------------------------------------------------------------------------ writing


def begin(path: Path, keep: bool) -> None:
    """Create the artefact directory; `keep` keeps existing files but done.json, for a stage that resumes."""
    with explained(path):
        if os.path.lexists(path) and not path.is_dir():
            path.unlink()
        # The mark goes first, so that a process killed before the end never leaves a false one.
        (path / "done.json").unlink(missing_ok=True)
        killpoints.reach("begin")
        if not keep and path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)


def finish(path: Path, digest: str, record: dict[str, Any]) -> None:
    """Write stage.json and then done.json, which marks the artefact as finished."""
    killpoints.reach("written")
    with explained(path):
        atomic.remove_leftovers(path)
        _open_to_others(path)
        files = manifest(path)
        write_json(path / "stage.json", record)
        own = _sha256(path / "stage.json")
        done = {"hash": digest, "root": root_hash(files), "record": own, "files": files}
        killpoints.reach("recorded")
        write_json(path / "done.json", done)
        seen = {name: os.stat(path / name) for name in (*files, "stage.json")}
        _write_seen(path, {name: [s.st_size, s.st_mtime_ns, s.st_ino] for name, s in seen.items()})


def manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file of an artefact, in order of name."""
    files = sorted(
        p for p in path.rglob("*") if p.is_file() and p.relative_to(path).as_posix() not in OWN_FILES
    )
    return {f.relative_to(path).as_posix(): {"size": f.stat().st_size, "sha256": _sha256(f)} for f in files}


def root_hash(files: dict[str, dict[str, Any]]) -> str:
    """sha256 over names and contents of a manifest's files, except those with times (TIMED)."""
    lines = [
        f"{name} {entry['sha256']}\n" for name, entry in sorted(files.items()) if not name.endswith(TIMED)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _open_to_others(path: Path) -> None:
    """Give all files the mode that umask grants.

    Libraries write some of them for their owner alone, which would lock other users out of a shared store.
    """
    mask = os.umask(0o022)
    os.umask(mask)
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~mask)


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the artefact's lock (<path>.lock), which the system releases if this process is killed.

    `on_wait` is called once if another process holds the lock.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
