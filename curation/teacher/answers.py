"""Answers of a chat model that are kept, so that no request is paid for twice.

    kept = KeptAnswers(client, Path("answers"))
    reply = kept.complete([{"role": "user", "content": "Is the sky blue?"}], max_tokens=8)

An answer is a file that is renamed into place as soon as it arrives: a killed run loses none, and several
runs may share a folder. The answer to a request is the same in every later run.
"""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from curation.teacher.base import Cost
from curation.teacher.chat import ChatClient, Message, Reply


class KeptAnswers:
    """The answers of `client`, kept in `folder` (None: not kept) without their log-probabilities.

    The key of an answer is the model, the request and `identity`, whatever else decides the answer; it does
    not hold the address. Thread-safe.
    """

    def __init__(self, client: ChatClient, folder: Path | None, identity: Sequence[str] = ()) -> None:
        self.client, self.folder, self.identity = client, folder, list(identity)
        self._lock, self._kept = threading.Lock(), Cost()

    def complete(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        response_format: dict[str, Any] | None = None,
    ) -> Reply:
        """The kept answer to this request, or a new one, which is then kept. Raises as ChatClient does."""
        path = self._path([self.client.model, messages, response_format, max_tokens, *self.identity])
        if path and (reply := _read(path)):
            self._count(reply)
            return reply
        reply = self.client.complete(messages, max_tokens, response_format=response_format)
        if path:
            _keep(path, reply)
        return reply

    def cost(self) -> Cost:
        """Cost of the client's requests so far, with the kept answers that were used."""
        kept = {name: value for name, value in asdict(self._kept).items() if name.startswith("kept")}
        return replace(self.client.cost(), **kept)

    def _count(self, reply: Reply) -> None:
        with self._lock:
            self._kept = Cost(
                kept=self._kept.kept + 1,
                kept_input_tokens=self._kept.kept_input_tokens + reply.input_tokens,
                kept_output_tokens=self._kept.kept_output_tokens + reply.output_tokens,
            )

    def _path(self, request: list[Any]) -> Path | None:
        if self.folder is None:
            return None
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}.json"


def _read(path: Path) -> Reply | None:
    """The answer in a file; None if there is none, or if the file is damaged: then it is requested again."""
    try:
        return Reply(logprobs=None, **json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _keep(path: Path, reply: Reply) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    content = {name: value for name, value in asdict(reply).items() if name != "logprobs"}
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)
