"""A client for servers of the OpenAI chat-completions protocol, with retries, cost counting and a cost cap.

    client = ChatClient(None, "gpt-4o", input_price=2.5, output_price=10, max_cost_usd=20)
    reply = client.complete([{"role": "user", "content": "Is the sky blue?"}], max_tokens=8)

A client is thread-safe. A request that fails after all retries raises ChatFailure, with a reason that callers
count; a problem of every request (wrong key, unknown model, no server, cost cap) raises another ChatError.
Nothing of a server's answer is believed unchecked: not its size, its redirections, its usage, nor its form.
"""

import itertools
import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from curation.printable import visible
from curation.teacher.address import MASK, OPENAI, checked, key_in, masked
from curation.teacher.base import Cost
from curation.teacher.completion import (
    Message,
    Reply,
    TokenLogprob,
    Tokens,
    longest_answer,
    read_completion,
)
from curation.teacher.connection import Connection, Late, Lost, Redirected, Response, TooLong
from curation.teacher.errors import ChatError, ChatFailure, ChatSetupError, CostCapReached, TooManyFailures
from curation.teacher.money import Purse, input_bound

__all__ = [
    "TOP_LOGPROBS",
    "ChatClient",
    "ChatError",
    "ChatFailure",
    "ChatSetupError",
    "CostCapReached",
    "Message",
    "Reply",
    "TokenLogprob",
    "TooManyFailures",
    "backoff",
]

Answer = TypeVar("Answer", Reply, bytes)

TOP_LOGPROBS = 20
"""Number of most likely tokens requested per position: the maximum of OpenAI and of a default vLLM server."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the second attempt, doubled for each further one, and their limit."""
LONGEST_NAMED_WAIT = 60.0
"""Default limit of the wait that a server may name, in seconds."""
LOST_IN_A_ROW = 10
"""Requests that lose their connection, none between them answered, after which the server is given up."""
NO_KEY = "none"
"""What is sent to a server that needs no key."""
BILLED_LATER = {408, 502, 504}
"""Statuses of a gateway that gave up waiting: the server behind it may have finished, and billed."""


@dataclass(frozen=True)
class _Failed:
    """An attempt without an answer: whether another one may succeed, and the wait that the server names.

    billed: whether it may have been billed. lost: how the connection was lost, if it was.
    """

    error: ChatError
    again: bool
    wait: float | None = None
    billed: bool = False
    lost: Lost | None = None


class ChatClient:
    """Requests to one model of one server.

    base_url: the address, including `/v1`, without a user or a query; None is OpenAI's own service.
    api_key_env: name of the environment variable with the key; None means OPENAI_API_KEY for OpenAI's service
        and no key elsewhere, so that a key is never sent to another server by accident.
    timeout: seconds for one attempt, from the connection to the last byte of the answer. retries: further
        attempts after status 408, 409, 429 or 5xx, a timeout, a lost connection or an unreadable answer;
        waits double from half a second to eight unless the server names another. longest_wait: a request
        whose server names a longer wait, in seconds, fails at once, and says so.
        deadline: seconds for an answer with all attempts and waits; None sets no limit beyond theirs.
    input_price, output_price: US dollars per million tokens. max_cost_usd: no request is sent that might
        exceed it. A request that is under way counts as one token per byte of text and `image_tokens` per
        image; so does an attempt whose answer never came (it may have been billed).
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
        longest_wait: float = LONGEST_NAMED_WAIT,
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
        self.model, self.retries, self.token_field = model, retries, token_field
        self.timeout, self.deadline = timeout, math.inf if deadline is None else deadline
        self.longest_wait, self.image_tokens = longest_wait, image_tokens
        self.purse = Purse(model, (input_price, output_price), max_cost_usd)
        self._connection = _connect(base_url, api_key_env)
        self.base_url = self._connection.base_url
        self._reached, self._lost, self._lock = False, 0, threading.Lock()

    def complete(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float = 0.0,
        logprobs: bool = False,
        response_format: dict[str, Any] | None = None,
    ) -> Reply:
        """The model's answer to a conversation. Raises ChatFailure, ChatSetupError or CostCapReached."""
        request = self.body(messages, max_tokens, temperature, logprobs, response_format)
        bound, limit = self.bound(messages, max_tokens), longest_answer(max_tokens, logprobs)
        return self._answered(lambda seconds: self._attempt(request, bound, limit, seconds), self.timeout)

    def body(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float = 0.0,
        logprobs: bool = False,
        response_format: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The request for an answer, as it is sent."""
        return {
            "model": self.model,
            "messages": list(messages),
            self.token_field: max_tokens,
            "temperature": temperature,
            **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if logprobs else {}),
            **({"response_format": response_format} if response_format else {}),
        }

    def bound(self, messages: Sequence[Message], max_tokens: int) -> Tokens:
        """Upper bound of the tokens of a request and its answer."""
        return input_bound(messages, self.image_tokens), max_tokens

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        upload: Path | None = None,
        seconds: float | None = None,
        retries: int | None = None,
        max_bytes: int = 1 << 20,
    ) -> bytes:
        """The body of the answer to any other request of the service, with the same retries unless given.

        Raises ChatFailure or ChatSetupError. Nothing is counted: such requests cost nothing.
        """

        def attempt(left: float) -> bytes | _Failed:
            response = self._send(method, path, body, left, max_bytes, upload)
            return response if isinstance(response, _Failed) else response.body

        return self._answered(attempt, self.timeout if seconds is None else seconds, retries)

    def cost(self) -> Cost:
        """Cost of all requests so far."""
        return self.purse.cost()

    def _answered(
        self, attempt: Callable[[float], Answer | _Failed], seconds: float, retries: int | None = None
    ) -> Answer:
        """The first answer of `attempt`, which has `seconds`; raises the error of the last one without."""
        end, most = time.monotonic() + self.deadline, self.retries if retries is None else retries
        for number in itertools.count():
            answer = attempt(min(seconds, end - time.monotonic()))
            if not isinstance(answer, _Failed):
                return answer
            wait = backoff(number) if answer.wait is None else answer.wait
            if not answer.again or number >= most or time.monotonic() + wait >= end:
                raise self._given_up(answer)
            self.purse.retried()
            time.sleep(wait)
        raise AssertionError("the attempts are counted without an end")

    def _attempt(self, request: dict[str, Any], bound: Tokens, limit: int, seconds: float) -> Reply | _Failed:
        """One request and its answer, which is counted even if it is unreadable or never comes."""
        with self.purse.reserved(bound):
            response = self._send("POST", "chat/completions", request, seconds, limit)
            if isinstance(response, _Failed):
                if response.billed:
                    self.purse.unanswered(bound)
                return response
            reply, usage = read_completion(response.body, bound)
            self.purse.answered(usage or bound)
        unreadable = ChatFailure("malformed", f"the answer of {self.model} is not a chat completion")
        return reply or _Failed(unreadable, again=True, wait=0.0)

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        seconds: float,
        max_bytes: int,
        upload: Path | None = None,
    ) -> Response | _Failed:
        """The response of status 2xx, or what became of the request."""
        try:
            response = self._connection.request(
                method, path, seconds=seconds, max_bytes=max_bytes, body=body, upload=upload
            )
        except Late as late:
            problem = ChatFailure("timeout", f"no whole answer of {self.model} within {seconds:.3g} s")
            return _Failed(problem, again=True, billed=late.sent)
        except Lost as lost:
            problem = ChatFailure("connection", f"the connection to {self.base_url} was lost ({lost})")
            return _Failed(problem, again=True, billed=lost.sent, lost=lost)
        except TooLong as error:
            problem = ChatFailure("malformed", f"{error}: {self.model} was not asked for so much")
            return _Failed(problem, again=False, billed=True)
        except Redirected as error:
            advice = f"{error}: give the address at which {self.model} is served"
            return _Failed(ChatSetupError(advice, "address"), again=False)
        with self._lock:
            self._reached, self._lost = True, 0
        return response if 200 <= response.status < 300 else self._refused(response)

    def _refused(self, response: Response) -> _Failed:
        """What a status other than 2xx means."""
        status, (detail, code) = response.status, self._said(response)
        if status in (401, 403, 404) or code == "insufficient_quota":
            problem = (
                f"{self.base_url} refuses model {self.model!r} ({detail}): check address, key, model, quota"
            )
            return _Failed(ChatSetupError(problem, "model" if status == 404 else "key"), again=False)
        reason = {429: "rate_limited", 408: "timeout", 409: "server_error"}.get(
            status, "server_error" if status >= 500 else "bad_request"
        )
        wait = _named_wait(response.headers)
        billed = status in BILLED_LATER
        if reason != "bad_request" and wait is not None and wait > self.longest_wait:
            late = (
                f"the server asks to wait {wait:,.0f} s, longer than longest_wait ({self.longest_wait:g} s); "
                f"{detail}"
            )
            return _Failed(ChatFailure(reason, late), again=False, billed=billed)
        return _Failed(ChatFailure(reason, detail), again=reason != "bad_request", wait=wait, billed=billed)

    def _said(self, response: Response) -> tuple[str, str | None]:
        """(status and message of an error for the screen, without the key; its code)."""
        text, code = response.body.decode("utf-8", "replace"), None
        try:
            error = json.loads(text)["error"]
            text, code = str(error["message"]), error.get("code")
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
            pass  # an error in another form is quoted as it is
        key = self._connection.key
        shown = text if key == NO_KEY else text.replace(key, MASK)
        return f"status {response.status}: {visible(masked(shown[:2000]))[:240]}", code

    def _given_up(self, failed: _Failed) -> ChatError:
        """The error of a request that is not tried again.

        A lost connection is the failure of one request, unless no server has ever been reached, or so many in
        a row are lost that it is gone.
        """
        if failed.lost is None:
            return failed.error
        with self._lock:
            self._lost += 1
            gone = self._lost >= LOST_IN_A_ROW or not (self._reached or failed.lost.sent)
        problem = f"no connection to {self.base_url} ({failed.lost}): is the server up?"
        return ChatSetupError(problem, "address") if gone else failed.error


def _connect(base_url: str | None, api_key_env: str | None) -> Connection:
    try:
        import httpx  # noqa: F401  # so that its absence is said before anything is sent
    except ImportError as error:
        raise ImportError("the chat client needs the package httpx: pip install winnow[api]") from error
    try:
        address = checked(OPENAI if base_url is None else base_url)
    except ValueError as error:
        raise ChatSetupError(str(error), "address") from error
    variable = api_key_env or ("OPENAI_API_KEY" if base_url is None else None)
    try:
        return Connection(address, key_in(variable) if variable else NO_KEY)
    except ValueError as error:
        raise ChatSetupError(str(error), "key") from error


def backoff(attempt: int) -> float:
    """Seconds to wait after an attempt (counted from 0), less up to a quarter so that clients spread."""
    return min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * (1 - random.random() / 4)


def _named_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of a response's Retry-After headers, a number or a date; None without a valid one."""
    try:
        if "retry-after-ms" in headers:
            wait = float(headers["retry-after-ms"]) / 1000
        elif (named := headers["retry-after"]).strip().replace(".", "", 1).isdigit():
            wait = float(named)
        else:
            wait = parsedate_to_datetime(named).timestamp() - time.time()
    except (KeyError, ValueError, OverflowError):
        return None
    return wait if 0 < wait < math.inf else None
