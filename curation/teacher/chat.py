"""A client for any server that speaks the OpenAI chat-completions protocol: retries, token and cost counters, a cost cap.

    client = ChatClient(None, "gpt-4o", input_price=2.5, output_price=10, max_cost_usd=20)
    reply = client.complete([{"role": "user", "content": "Is the sky blue?"}], max_tokens=8)

One client may be used from many threads. A request that fails for good raises ChatFailure with a reason that callers
count; what concerns every request (wrong key, unknown model, no server, cost cap) raises another ChatError.
"""

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from curation.teacher.base import Cost

Message = Mapping[str, Any]
TokenLogprob = tuple[str, float]
"""A token's text and its natural-log probability."""

TOP_LOGPROBS = 20
"""Most likely tokens asked for at each position: the most that OpenAI and a default vLLM server give."""


class ChatError(RuntimeError):
    """The conversation with a server failed; the message says why and what to do."""


class ChatSetupError(ChatError):
    """No request can succeed; `about` tells what to look at: address, key (also its quota) or model."""

    def __init__(self, message: str, about: Literal["address", "key", "model"]) -> None:
        super().__init__(message)
        self.about = about


class CostCapReached(ChatError):
    """The next request might cost more than what is left of `max_cost_usd`; what was paid for has been returned."""


class TooManyFailures(ChatError):
    """No label for more samples than the caller accepts; what was answered is kept."""


class ChatFailure(ChatError):
    """One request failed after all retries; `reason` is rate_limited, server_error, timeout, bad_request or malformed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail[:300]}")
        self.reason = reason


@dataclass(frozen=True)
class Reply:
    """An answer. `logprobs` holds, for each token written, the most likely tokens there; None where the server gave none."""

    text: str
    logprobs: tuple[tuple[TokenLogprob, ...], ...] | None
    finish_reason: str
    input_tokens: int
    output_tokens: int


class ChatClient:
    """Requests to one model of one server.

    base_url: the address up to and with `/v1`; None is OpenAI's own service.
    api_key_env: the environment variable that holds the key; None means OPENAI_API_KEY for OpenAI's service and no key
        elsewhere, so that a key never goes to another server by accident.
    timeout: seconds for one attempt. retries: further attempts after 408, 409, 429, 5xx, a timeout, a lost connection
        or an answer that cannot be read; waits double from half a second, or are those that the server asks for.
    input_price, output_price: US dollars for a million tokens. max_cost_usd: no request is sent that might exceed it;
        until a request is answered it counts with one token for each byte of text and `image_tokens` for each image.
    token_field: the name under which the server takes `max_tokens` (some models want max_completion_tokens).
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        input_price: float = 0.0,
        output_price: float = 0.0,
        max_cost_usd: float | None = None,
        image_tokens: int = 2000,
        token_field: str = "max_tokens",
    ) -> None:
        if max_cost_usd is not None and not (input_price > 0 or output_price > 0):
            raise ValueError(
                "max_cost_usd needs input_price and output_price, in US dollars for a million tokens"
            )
        self.base_url, self.model, self.retries, self.token_field = base_url, model, retries, token_field
        self.prices, self.max_cost_usd, self.image_tokens = (
            (input_price, output_price),
            max_cost_usd,
            image_tokens,
        )
        self._client = _connect(base_url, api_key_env, timeout, retries)
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
        """One answer to a conversation. Raises ChatFailure, ChatSetupError or CostCapReached."""
        request = {
            "model": self.model,
            "messages": list(messages),
            self.token_field: max_tokens,
            "temperature": temperature,
            **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if logprobs else {}),
            **({"response_format": response_format} if response_format else {}),
        }
        bound = self._bound(messages), max_tokens
        with self._paid_for(bound):
            for _ in range(self.retries + 1):
                reply, usage = _read_body(self._send(request))
                self._count(usage, bound)
                if reply:
                    return reply
        raise ChatFailure(
            "malformed", f"{self.model} gave {self.retries + 1} answers that are no chat completion"
        )

    def cost(self) -> Cost:
        """What all answered requests have cost so far."""
        return replace(self._cost, retried=self._retried)

    def _send(self, request: dict[str, Any]) -> str:
        import openai

        try:
            answer = self._client.chat.completions.with_raw_response.create(**request)
        except openai.APITimeoutError as error:
            raise ChatFailure("timeout", f"no answer in {self.retries + 1} attempts") from error
        except openai.APIConnectionError as error:
            problem = (
                f"no connection to {self._client.base_url} ({error.__cause__ or error}): is the server up?"
            )
            raise ChatSetupError(problem, "address") from error
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        with self._changed:
            self._retried += answer.retries_taken
        return answer.text

    def _status_error(self, error: Any) -> ChatError:
        status, detail = error.status_code, str(error)
        if status in (401, 403, 404) or getattr(error, "code", None) == "insufficient_quota":
            problem = f"{self._client.base_url} refuses model {self.model!r} ({detail[:300]}): check address, key, model, quota"
            return ChatSetupError(problem, "model" if status == 404 else "key")
        if status == 429:
            return ChatFailure("rate_limited", detail)
        if status == 408:
            return ChatFailure("timeout", detail)
        return ChatFailure("server_error" if status >= 500 or status == 409 else "bad_request", detail)

    def _usd(self, tokens: tuple[int, int]) -> float:
        return (tokens[0] * self.prices[0] + tokens[1] * self.prices[1]) / 1e6

    def _bound(self, messages: Sequence[Message]) -> int:
        """Input tokens that a conversation cannot exceed: a token is at least one byte, a turn's marks are a few tokens."""
        parts = [part for message in messages for part in _parts(message["content"])]
        text = sum(len(part["text"].encode("utf-8", "replace")) for part in parts if part["type"] == "text")
        return (
            text
            + self.image_tokens * sum(part["type"] != "text" for part in parts)
            + 16 * (len(messages) + 1)
        )

    @contextmanager
    def _paid_for(self, bound: tuple[int, int]) -> Iterator[None]:
        """Hold back the money for one request; waits while requests under way hold what may come free again."""
        held = self._usd(bound)
        with self._changed:
            while (
                self.max_cost_usd is not None and self._cost.usd + sum(self._held) + held > self.max_cost_usd
            ):
                if not self._held:
                    raise CostCapReached(
                        f"${self._cost.usd:.4f} of ${self.max_cost_usd} are spent on {self._cost.requests} requests to {self.model}, and the "
                        f"next might cost ${held:.4f}: raise max_cost_usd to go on"
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
        """Add one answer. Without a usage in it, its upper bound is what it cost."""
        tokens = bound if usage is None else usage
        with self._changed:
            c = self._cost
            self._cost = Cost(
                c.requests + 1,
                c.input_tokens + tokens[0],
                c.output_tokens + tokens[1],
                c.usd + self._usd(tokens),
            )


def _connect(base_url: str | None, api_key_env: str | None, timeout: float, retries: int) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ImportError("the client of chat servers is not installed: pip install winnow[api]") from error
    variable = api_key_env or ("OPENAI_API_KEY" if base_url is None else None)
    key = os.environ.get(variable) if variable else "none"
    if not key:
        raise ChatSetupError(
            f"the environment variable {variable} holds no key: set it, or name another one", "key"
        )
    return openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout, max_retries=retries)


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _read_body(body: str) -> tuple[Reply | None, tuple[int, int] | None]:
    """The reply (None where the body is no chat completion) and the (input, output) tokens (None where not told)."""
    try:
        content = json.loads(body)
        usage = content.get("usage") and (
            int(content["usage"]["prompt_tokens"]),
            int(content["usage"]["completion_tokens"]),
        )
        choice = content["choices"][0]
        text, finish = choice["message"].get("content") or "", str(choice.get("finish_reason"))
        logprobs = _read_logprobs(choice.get("logprobs"))
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError, ValueError):
        return None, None
    return Reply(str(text), logprobs, finish, *(usage or (0, 0))), usage or None


def _read_logprobs(entry: Any) -> tuple[tuple[TokenLogprob, ...], ...] | None:
    if not entry or not entry.get("content"):
        return None
    positions = tuple(
        tuple((str(t["token"]), float(t["logprob"])) for t in p["top_logprobs"]) for p in entry["content"]
    )
    if any(math.isnan(value) or value > 1e-3 for position in positions for _, value in position):
        raise ValueError("a log-probability above zero")
    return positions
