"""The step logs of trainings, read while they are written."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG = "fit.log.jsonl"
PREFIX = "train/"
"""Before the name of each number of a step."""


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """The finite or infinite numbers of a line, but not its step: text and lists never leave a step log."""
    kept = {k: v for k, v in line.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {f"{PREFIX}{key}": value for key, value in kept.items() if key != "step"}


@dataclass
class StepLog:
    """Reads the lines that were added to a step log since it was last asked.

    A training that resumes writes the log anew up to its saved state, so a log may become shorter, and other
    bytes may come to stand where reading stopped: then it is read from its start again.
    """

    path: Path
    _at: int = 0
    _last: bytes = b""

    def new(self) -> Iterator[dict[str, Any]]:
        """The whole lines that are new, or, after the log was rewritten, all."""
        try:
            handle = self.path.open("rb")
        except FileNotFoundError:
            return
        with handle:
            handle.seek(max(0, self._at - len(self._last)))
            if handle.read(len(self._last)) != self._last:
                handle.seek(0)
                self._at, self._last = 0, b""
            for line in handle:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._at, self._last = self._at + len(line), line
                yield json.loads(line)


@dataclass
class Watched:
    """The folder of a stage that trains once or, in subfolders, several times.

    `before`: its done.json as `mark` saw it when the recipe began. `begun`: some of it was logged earlier.
    """

    folder: Path
    before: list[int] | None
    begun: bool = False
    logs: dict[str, StepLog] = field(default_factory=dict)

    def done(self) -> bool:
        """Whether the stage is finished."""
        return (self.folder / "done.json").is_file()

    def untouched(self) -> bool:
        """Whether it was finished before the recipe began, still is, and nobody was told of it."""
        return self.before is not None and not self.begun and mark(self.folder) == self.before

    def found(self) -> dict[str, StepLog]:
        """The logs that there are, by subfolder; "" for the stage's own."""
        for path in sorted([*self.folder.glob(LOG), *self.folder.glob(f"*/{LOG}")]):
            name = "" if path.parent == self.folder else path.parent.name
            self.logs.setdefault(name, StepLog(path))
        return self.logs


def mark(folder: Path) -> list[int] | None:
    """What tells one finishing of a stage from another; None if it is not finished."""
    try:
        stat = (folder / "done.json").stat()
    except FileNotFoundError:
        return None
    return [stat.st_ino, stat.st_mtime_ns]
