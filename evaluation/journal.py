"""Answers saved while they are generated, so that a crashed evaluation generates no answer twice.

One JSON line per answer; its key covers everything that decides the answer: task, document, prompt with
pixels, generation settings, weights. A line that a crash left incomplete is dropped when the journal is
opened again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from curation import killpoints


def answer_key(
    task: str, doc_id: int, prompt_hash: str, generation: Mapping[str, Any], checkpoint: str
) -> str:
    """Hex digest that is equal only for the same prompt, model and settings."""
    parts = [task, doc_id, prompt_hash, sorted((k, repr(v)) for k, v in generation.items()), checkpoint]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Journal:
    """Append-only JSONL of {"key", "task", "doc_id", "answer"}. `path` None keeps answers in memory only.

    Use as a context manager, or call `close`. One process writes one journal.
    """

    def __init__(self, path: Path | None) -> None:
        self._answers: dict[str, str] = {}
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(path)
            self._file = path.open("a", encoding="utf-8")

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            path.write_bytes(whole + b"\n" if whole else b"")
        for line in whole.splitlines():
            entry = json.loads(line)
            self._answers[entry["key"]] = entry["answer"]

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> str | None:
        """The answer under this key, if it is known."""
        return self._answers.get(key)

    def add(self, key: str, answer: str, *, task: str, doc_id: int) -> None:
        """Add one answer; call `flush` after a batch."""
        self._answers[key] = answer
        if self._file:
            self._file.write(
                json.dumps({"key": key, "task": task, "doc_id": doc_id, "answer": answer}) + "\n"
            )

    def flush(self) -> None:
        """Hand all added answers to the operating system: they then survive the death of this process."""
        if self._file:
            self._file.flush()
        killpoints.reach("answers")

    def close(self) -> None:
        if self._file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
