"""The content-addressed store: store/<kind>/<hash12>/ holds an artefact, stage.json and, written last, done.json.

A directory without done.json is unfinished work. done.json lists every file with its size (and sha256 if small), so
an artefact that was truncated later is found when it is about to be reused.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recipes.errors import StoreError

SMALL_FILE = 1 << 20
"""Files up to this many bytes are verified by content, larger ones by size."""
MANY_FILES = 10_000
"""An artefact of more files (a pool's images) is verified by sizes only: reading all of it would take too long."""
OWN_FILES = {"stage.json", "done.json"}

DISK_ADVICE = {
    errno.ENOSPC: "free some space there, or keep store/ and runs/ on another disk with root=DIR",
    errno.EDQUOT: "your quota is used up: free some space, or keep store/ and runs/ elsewhere with root=DIR",
    errno.EROFS: "the file system is read-only: choose a writable place with root=DIR",
    errno.EACCES: "you may not write there: choose a writable place with root=DIR",
    errno.EPERM: "you may not write there: choose a writable place with root=DIR",
    errno.ENOTDIR: "a part of the path is a file: choose another place with root=DIR",
}


def disk_problem(error: OSError, path: Path | str) -> str | None:
    """What to tell the user if the error means that the disk is full or not writable, else None."""
    if error.errno not in DISK_ADVICE:
        return None
    return f"cannot write {error.filename or path}: {os.strerror(error.errno)}; {DISK_ADVICE[error.errno]}"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into a StoreError that names the path and says what to do."""
    try:
        yield
    except OSError as error:
        if (advice := disk_problem(error, path)) is None:
            raise
        raise StoreError(advice) from error


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, at any moment of a kill."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def check(path: Path, digest: str) -> str:
    """`done`, `absent`, `unfinished`, or `damaged: why` for the artefact directory of a stage with that full hash."""
    if not path.exists():
        return "absent"
    try:
        done = json.loads((path / "done.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "unfinished"
    except ValueError:
        return "damaged: done.json is not readable"
    if done["hash"] != digest:
        return "damaged: done.json is of another stage"
    try:
        read_record(path)
    except (FileNotFoundError, ValueError):
        return "damaged: stage.json is not readable"
    problem = next(_problems(path, done["files"]), None)
    return f"damaged: {problem}" if problem else "done"


def _problems(path: Path, files: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, recorded in files.items():
        try:
            size = os.stat(path / name).st_size
        except FileNotFoundError:
            yield f"{name} is missing"
            continue
        if size != recorded["size"]:
            yield f"{name} has {size} bytes instead of {recorded['size']}"
        elif "sha256" in recorded and _sha256(path / name) != recorded["sha256"]:
            yield f"{name} has other content than it was written with"


def manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Size, and sha256 where affordable, of every file of an artefact, in order of name."""
    files = sorted(
        p for p in path.rglob("*") if p.is_file() and p.relative_to(path).as_posix() not in OWN_FILES
    )
    with_content = len(files) <= MANY_FILES
    found = {}
    for file in files:
        entry: dict[str, Any] = {"size": file.stat().st_size}
        if with_content and entry["size"] <= SMALL_FILE:
            entry["sha256"] = _sha256(file)
        found[file.relative_to(path).as_posix()] = entry
    return found


def finish(path: Path, digest: str, record: dict[str, Any]) -> None:
    """Write stage.json and then done.json: from here on the artefact is finished."""
    write_json(path / "stage.json", record)
    write_json(path / "done.json", {"hash": digest, "files": manifest(path)})


def begin(path: Path, keep: bool) -> None:
    """An artefact directory without done.json; `keep` leaves the other files for a stage that resumes."""
    with explained(path):
        (path / "done.json").unlink(
            missing_ok=True
        )  # first, so that a kill on the way never leaves a false mark
        if not keep and path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """stage.json of a finished artefact."""
    return json.loads((path / "stage.json").read_text(encoding="utf-8"))


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the artefact's lock (<path>.lock); the system gives it back if this process is killed.

    `on_wait` is called once if another process holds it.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
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
