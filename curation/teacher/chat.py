"""A client for servers of the OpenAI chat-completions protocol, with retries, cost counting and a cost cap.

    client = ChatClient(None, "gpt-4o", input_price=2.5, output_price=10, max_cost_usd=20)
    reply = client.complete([{"role": "user", "content": "Is the sky blue?"}], max_tokens=8)

A client is thread-safe. A request that fails after all retries raises ChatFailure, with a reason that callers
count; a problem of every request (wrong key, unknown model, no server, cost cap) raises another ChatError.
"""

import itertools
import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from curation.teacher.base import Cost
from curation.teacher.connection import Connection

Message = Mapping[str, Any]
TokenLogprob = tuple[str, float]
"""A token's text and its natural-log probability."""

TOP_LOGPROBS = 20
"""Number of most likely tokens requested per position: the maximum of OpenAI and of a default vLLM server."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the second attempt, doubled for each further one, and their limit."""
LONGEST_NAMED_WAIT = 60.0
"""A longer wait that a server asks for is not kept."""


class ChatError(RuntimeError):
    """A request to a chat server failed; the message says why and what to do."""


class ChatSetupError(ChatError):
    """No request can succeed. `about` names what to check: address, key (or its quota) or model."""

    def __init__(self, message: str, about: Literal["address", "key", "model"]) -> None:
        super().__init__(message)
        self.about = about


class CostCapReached(ChatError):
    """The next request might exceed `max_cost_usd`; every answer that was paid for has been returned."""


class TooManyFailures(ChatError):
    """More samples failed than the caller accepts; the answers so far are in the cache."""


class ChatFailure(ChatError):
    """One request failed after all retries.

    `reason` is rate_limited, server_error, timeout, bad_request or malformed.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail[:300]}")
        self.reason = reason


@dataclass(frozen=True)
class Reply:
    """An answer. `logprobs`: for each generated token the most likely ones; None if the server sent none.

    `model`: the model's name in the answer, often with its version.
    """

    text: str
    logprobs: tuple[tuple[TokenLogprob, ...], ...] | None
    finish_reason: str
    input_tokens: int
    output_tokens: int
    model: str = ""


@dataclass(frozen=True)
class _Failed:
    """An attempt without an answer: whether another one may succeed, and the wait that the server names."""

    error: ChatError
    again: bool
    wait: float | None = None


class ChatClient:
    """Requests to one model of one server.

    base_url: the address, including `/v1`; None is OpenAI's own service.
    api_key_env: name of the environment variable with the key; None means OPENAI_API_KEY for OpenAI's service
        and no key elsewhere, so that a key is never sent to another server by accident.
    timeout: seconds for one attempt, from the connection to the last byte of the answer. retries: further
        attempts after status 408, 409, 429 or 5xx, a timeout, a lost connection or an unreadable answer;
        waits double from half a second to eight unless the server names a wait of up to a minute.
        deadline: seconds for an answer with all attempts and waits; None sets no limit beyond theirs.
    input_price, output_price: US dollars per million tokens. max_cost_usd: no request is sent that might
        exceed it; an unanswered request counts as one token per byte of text and `image_tokens` per image.
    token_field: the server's name for `max_tokens` (some models require max_completion_tokens).
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        deadline: float | None = None,
        retries: int = 4,
        input_price: float = 0.0,
        output_price: float = 0.0,
        max_cost_usd: float | None = None,
        image_tokens: int = 2000,
        token_field: str = "max_tokens",
    ) -> None:
        if max_cost_usd is not None and not (input_price > 0 or output_price > 0):
            raise ValueError(
                "max_cost_usd needs input_price and output_price, in US dollars per million tokens"
            )
        self.base_url, self.model, self.retries, self.token_field = base_url, model, retries, token_field
        self.timeout, self.deadline = timeout, math.inf if deadline is None else deadline
        self.prices, self.max_cost_usd, self.image_tokens = (
            (input_price, output_price),
            max_cost_usd,
            image_tokens,
        )
        self._connection = Connection(_connect(base_url, api_key_env, timeout))
        self._cost, self._retried = Cost(), 0
        self._held: list[float] = []
        self._changed = threading.Condition()

    def complete(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float = 0.0,
        logprobs: bool = False,
        response_format: dict[str, Any] | None = None,
    ) -> Reply:
        """The model's answer to a conversation. Raises ChatFailure, ChatSetupError or CostCapReached."""
        request = {
            "model": self.model,
            "messages": list(messages),
            self.token_field: max_tokens,
            "temperature": temperature,
            **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if logprobs else {}),
            **({"response_format": response_format} if response_format else {}),
        }
        bound, end = (self._bound(messages), max_tokens), time.monotonic() + self.deadline
        for attempt in itertools.count():
            answer = self._attempt(request, bound, end)
            if isinstance(answer, Reply):
                return answer
            wait = _backoff(attempt) if answer.wait is None else answer.wait
            if not answer.again or attempt >= self.retries or time.monotonic() + wait >= end:
                raise answer.error
            with self._changed:
                self._retried += 1
            time.sleep(wait)

    def cost(self) -> Cost:
        """Cost of all answered requests so far."""
        return replace(self._cost, retried=self._retried)

    def _attempt(self, request: dict[str, Any], bound: tuple[int, int], end: float) -> Reply | _Failed:
        """One request and its answer, which is counted even if it is unreadable."""
        with self._paid_for(bound):
            body = self._send(request, min(self.timeout, end - time.monotonic()))
            if isinstance(body, _Failed):
                return body
            reply, usage = _read_body(body)
            self._count(usage, bound)
        unreadable = ChatFailure("malformed", f"the answer of {self.model} is not a chat completion")
        return reply or _Failed(unreadable, again=True, wait=0.0)

    def _send(self, request: dict[str, Any], seconds: float) -> str | _Failed:
        import openai

        client = self._connection.client
        create = client.chat.completions.with_raw_response.create
        try:
            return self._connection.wait_for(lambda: create(**request), seconds).text
        except (TimeoutError, openai.APITimeoutError):
            late = ChatFailure("timeout", f"no whole answer of {self.model} within {seconds:.3g} s")
            return _Failed(late, again=True)
        except openai.APIConnectionError as error:
            problem = f"no connection to {client.base_url} ({error.__cause__ or error}): is the server up?"
            return _Failed(ChatSetupError(problem, "address"), again=True)
        except openai.APIStatusError as error:
            failure = self._status_error(error)
            again = isinstance(failure, ChatFailure) and failure.reason != "bad_request"
            return _Failed(failure, again, _named_wait(error.response.headers))

    def _status_error(self, error: Any) -> ChatError:
        status, detail = error.status_code, str(error)
        if status in (401, 403, 404) or getattr(error, "code", None) == "insufficient_quota":
            problem = (
                f"{self._connection.client.base_url} refuses model {self.model!r} ({detail[:300]}): "
                "check address, key, model, quota"
            )
            return ChatSetupError(problem, "model" if status == 404 else "key")
        if status == 429:
            return ChatFailure("rate_limited", detail)
        if status == 408:
            return ChatFailure("timeout", detail)
        return ChatFailure("server_error" if status >= 500 or status == 409 else "bad_request", detail)

    def _usd(self, tokens: tuple[int, int]) -> float:
        return (tokens[0] * self.prices[0] + tokens[1] * self.prices[1]) / 1e6

    def _bound(self, messages: Sequence[Message]) -> int:
        """Upper bound of the input tokens: a token is at least one byte, a turn's markup a few tokens."""
        parts = [part for message in messages for part in _parts(message["content"])]
        text = sum(len(part["text"].encode("utf-8", "replace")) for part in parts if part["type"] == "text")
        return (
            text
            + self.image_tokens * sum(part["type"] != "text" for part in parts)
            + 16 * (len(messages) + 1)
        )

    @contextmanager
    def _paid_for(self, bound: tuple[int, int]) -> Iterator[None]:
        """Reserve the most that one request may cost; waits while requests under way may still free money."""
        held = self._usd(bound)
        with self._changed:
            while (
                self.max_cost_usd is not None and self._cost.usd + sum(self._held) + held > self.max_cost_usd
            ):
                if not self._held:
                    raise CostCapReached(
                        f"${self._cost.usd:.4f} of ${self.max_cost_usd} are spent on "
                        f"{self._cost.requests} requests to {self.model}, and the next "
                        f"might cost ${held:.4f}: raise max_cost_usd to go on"
                    )
                self._changed.wait()
            self._held.append(held)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(held)
                self._changed.notify_all()

    def _count(self, usage: tuple[int, int] | None, bound: tuple[int, int]) -> None:
        """Add one answer to the cost. An answer without usage counts as its upper bound."""
        tokens = bound if usage is None else usage
        with self._changed:
            c = self._cost
            self._cost = Cost(
                c.requests + 1,
                c.input_tokens + tokens[0],
                c.output_tokens + tokens[1],
                c.usd + self._usd(tokens),
            )


def _connect(base_url: str | None, api_key_env: str | None, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError("the chat client needs the package openai: pip install winnow[api]") from error
    variable = api_key_env or ("OPENAI_API_KEY" if base_url is None else None)
    key = os.environ.get(variable) if variable else "none"
    if not key:
        raise ChatSetupError(
            f"the environment variable {variable} holds no key: set it, or name another one",
            "key",
        )
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, timeout=timeout, max_retries=0)


def _backoff(attempt: int) -> float:
    """Seconds to wait after an attempt (counted from 0), less up to a quarter so that clients spread."""
    return min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * (1 - random.random() / 4)


def _named_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of a response's Retry-After headers; None without one, or for one that is not kept."""
    try:
        wait = float(headers.get("retry-after-ms") or 1000 * float(headers["retry-after"])) / 1000
    except (KeyError, ValueError):
        return None
    return wait if 0 < wait <= LONGEST_NAMED_WAIT else None


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _read_body(body: str) -> tuple[Reply | None, tuple[int, int] | None]:
    """(reply or None if the body is not a chat completion, (input, output) tokens or None if not given)."""
    try:
        content = json.loads(body)
        usage = content.get("usage") and (
            int(content["usage"]["prompt_tokens"]),
            int(content["usage"]["completion_tokens"]),
        )
        choice = content["choices"][0]
        # Half of a surrogate pair cannot be sent back, nor written as UTF-8.
        text = str(choice["message"].get("content") or "").encode("utf-8", "replace").decode()
        finish = str(choice.get("finish_reason"))
        logprobs = _read_logprobs(choice.get("logprobs"))
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError, ValueError):
        return None, None
    reply = Reply(text, logprobs, finish, *(usage or (0, 0)), model=str(content.get("model") or ""))
    return reply, usage or None


def _read_logprobs(entry: Any) -> tuple[tuple[TokenLogprob, ...], ...] | None:
    if not entry or not entry.get("content"):
        return None
    positions = tuple(
        tuple((str(t["token"]), float(t["logprob"])) for t in p["top_logprobs"]) for p in entry["content"]
    )
    # Servers round: a log-probability slightly above zero is accepted.
    if any(math.isnan(value) or value > 1e-3 for position in positions for _, value in position):
        raise ValueError("a log-probability is above zero")
    return positions
