"""Answers saved while they are generated, and kept: scoring them another way never asks the model again.

One JSONL file holds the answers of one checkpoint to one task. Its first line is their identity: everything
that decides an answer (checkpoint, task, data, template, generation settings, dtype), so answers of another
model or prompt are never taken for these. A line that a crash left incomplete is dropped when the file is
opened again.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from curation import killpoints


class Answer(NamedTuple):
    """A model's answer: its text, whether the token limit cut it, and its length in tokens."""

    text: str
    truncated: bool
    tokens: int


class AnswersError(ValueError):
    """A file of answers that cannot be used; the message names it."""


class Answers:
    """The answers to one task by the question's index, in memory and in the file `path`.

    `prompts`: the hash of what was asked. Use as a context manager, or call `close`. Another process that
    opens the same file waits until it is closed here, and then knows all of it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.identity = dict(identity)
        self.known: dict[int, Answer] = {}
        self.prompts: dict[int, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._open(path)

    def _open(self, path: Path) -> None:
        if b"\n" not in path.read_bytes():  # new, or killed within the first line
            self._file.truncate(0)
            self._write({"identity": self.identity})
            return
        own, self.known, self.prompts = _read(path)
        if own != self.identity:
            raise AnswersError(f"{path} holds the answers of another model or prompt: move it away")

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def add(self, index: int, answer: Answer, prompt: str) -> None:
        """Add one answer; `prompt` is the hash of what was asked. Call `flush` after a batch."""
        self.known[index], self.prompts[index] = answer, prompt
        entry = {"index": index, "answer": answer.text, "tokens": answer.tokens, "prompt": prompt}
        self._write(entry | ({"truncated": True} if answer.truncated else {}))

    def flush(self) -> None:
        """Hand all added answers to the operating system: they then survive the death of this process."""
        self._file.flush()
        killpoints.reach("answers")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> tuple[dict[str, Any], dict[int, Answer]]:
    """(identity, answers by index) of a file that nobody is writing. Raises AnswersError."""
    identity, answers, _ = _read(path)
    return identity, answers


def _read(path: Path) -> tuple[dict[str, Any], dict[int, Answer], dict[int, str]]:
    """Also the prompts' hashes; cuts an incomplete last line off the file."""
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        os.truncate(path, len(whole) + 1 if whole else 0)
    try:
        first, *lines = [json.loads(line) for line in whole.splitlines()]
        answers = {
            line["index"]: Answer(line["answer"], line.get("truncated", False), line["tokens"])
            for line in lines
        }
        return first["identity"], answers, {line["index"]: line["prompt"] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise AnswersError(
            f"{path} is damaged ({error!r}): delete it, and its answers are made again"
        ) from error


def path_of(folder: Path, part: str, identity: Mapping[str, Any]) -> Path:
    """`<folder>/<part>-<8 digits of the identity>.jsonl`."""
    digest = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{_slug(part)}-{digest}.jsonl"


def find(folder: Path, part: str) -> Path | None:
    """The file of answers to a part in a folder, None if there is none. Raises AnswersError for several."""
    files = _files(folder, part)
    if len(files) > 1:
        raise AnswersError(f"{folder} holds {len(files)} files of answers to {part}: which is meant?")
    return files[0] if files else None


def has_answers(folder: Path, part: str) -> bool:
    """Whether a folder holds answers to a part, of whichever model."""
    return bool(_files(folder, part))


def _files(folder: Path, part: str) -> list[Path]:
    return [f for f in sorted(folder.glob(f"{_slug(part)}-*.jsonl")) if f.stem[:-9] == _slug(part)]


def _slug(part: str) -> str:
    return re.sub(r"[^\w.]+", "_", part)
