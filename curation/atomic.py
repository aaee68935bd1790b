"""Files that are either whole or absent: written under a temporary name beside the final one, and renamed."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation import killpoints


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it when the block ends without an error.

    A reader sees the old content or the new, never a part, at any moment of a kill. The name holds the
    process id, so that two processes never write into the same temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        killpoints.reach("before rename")
        os.replace(temporary, path)
        killpoints.reach("after rename")
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that killed processes left below `folder`; nobody else may be writing there."""
    for temporary in folder.rglob(".*.tmp"):
        temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
