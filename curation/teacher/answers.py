"""Answers of a chat model that are kept, so that no request is paid for twice.

    kept = KeptAnswers(client, Path("answers"))
    reply = kept.complete([{"role": "user", "content": "Is the sky blue?"}], max_tokens=8)

An answer is a file that is renamed into place as soon as it arrives: a killed run loses none, and several
runs may share a folder. The answer to a request is the same in every later run, unless it was rejected: then
the next run asks again, and what the rejected one has cost stays in the file.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curation.teacher.base import Cost
from curation.teacher.chat import ChatClient, Message, Reply

Check = Callable[[Reply], str | None]
"""What is wrong with an answer; None if it can be used."""


@dataclass(frozen=True)
class _Kept:
    """A file: the answer, whether it is to be asked for again, and the tokens of rejected ones before it."""

    reply: Reply
    again: bool = False
    problem: str | None = None
    earlier: tuple[int, int] = (0, 0)

    @property
    def paid(self) -> tuple[int, int]:
        """Input and output tokens of all answers to the request."""
        return self.earlier[0] + self.reply.input_tokens, self.earlier[1] + self.reply.output_tokens


class KeptAnswers:
    """The answers of `client`, kept in `folder` (None: not kept) without their log-probabilities.

    The key of an answer is the model, the request and `identity`, whatever else decides the answer; it does
    not hold the address. Thread-safe.
    """

    def __init__(self, client: ChatClient, folder: Path | None, identity: Sequence[str] = ()) -> None:
        self.client, self.folder, self.identity = client, folder, list(identity)
        self._lock, self._used = threading.Lock(), Cost()
        self._new: set[str] = set()
        """Keys of answers of this run, which are not those of an earlier one."""

    def complete(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        response_format: dict[str, Any] | None = None,
        check: Check | None = None,
    ) -> Reply:
        """The kept answer to this request, or a new one, which is then kept. Raises as ChatClient does.

        check: sees a new answer before it is kept; its complaint is kept with it.
        """
        key = self.key(messages, max_tokens, response_format)
        kept = self._read(key)
        if kept:
            self._count(key, kept)
            if not kept.again:
                return kept.reply
        reply = self.client.complete(messages, max_tokens, response_format=response_format)
        self.keep(key, reply, check)
        return reply

    def key(
        self, messages: Sequence[Message], max_tokens: int, response_format: dict[str, Any] | None = None
    ) -> str:
        """What identifies a request: 32 hexadecimal digits."""
        request = [self.client.model, messages, response_format, max_tokens, *self.identity]
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]

    def has(self, key: str) -> bool:
        """Whether the request with this key has an answer that will be used."""
        kept = self._read(key)
        return kept is not None and not kept.again

    def keep(self, key: str, reply: Reply, check: Check | None = None) -> None:
        """Keep a new answer; what a rejected one before it has cost is added to it."""
        problem = check(reply) if check else None
        if self.folder is not None:
            with self._lock:
                self._new.add(key)
            before = self._read(key)
            self._write(key, _Kept(reply, problem=problem, earlier=before.paid if before else (0, 0)))

    def reject(self, key: str) -> None:
        """Have the next run ask again: the answer did not serve, now nor with what was said to it."""
        if kept := self._read(key):
            self._write(key, replace(kept, again=True))

    def cost(self) -> Cost:
        """Cost of the client's requests so far, with the kept answers that were used."""
        used = {name: value for name, value in asdict(self._used).items() if name.startswith("kept")}
        return replace(self.client.cost(), **used)

    def _count(self, key: str, kept: _Kept) -> None:
        with self._lock:
            if key in self._new:
                return
            self._used = Cost(
                kept=self._used.kept + (not kept.again),
                kept_input_tokens=self._used.kept_input_tokens + kept.paid[0],
                kept_output_tokens=self._used.kept_output_tokens + kept.paid[1],
            )

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"

    def _read(self, key: str) -> _Kept | None:
        """What is kept under a key; None if nothing is, or if the file is damaged: it is then asked again."""
        if self.folder is None:
            return None
        try:
            return _parsed(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _write(self, key: str, kept: _Kept) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        content = {name: value for name, value in asdict(kept.reply).items() if name != "logprobs"}
        marks = {"again": kept.again, "problem": kept.problem, "earlier": list(kept.earlier)}
        content |= {name: value for name, value in marks.items() if value not in (False, None, [0, 0])}
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)


def _parsed(content: dict[str, Any]) -> _Kept:
    """The content of a file. Raises ValueError, TypeError or KeyError unless all of it is as written."""
    types = {"text": str, "finish_reason": str, "input_tokens": int, "output_tokens": int, "model": str}
    values = {name: content[name] for name in types}
    before = content.get("earlier", [0, 0])
    counts = [values["input_tokens"], values["output_tokens"], *before]
    if any(type(values[name]) is not kind for name, kind in types.items()) or len(before) != 2:
        raise TypeError("a value has another type")
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("a number of tokens is none")
    return _Kept(
        Reply(logprobs=None, **values),
        content.get("again") is True,
        content.get("problem"),
        (before[0], before[1]),
    )
