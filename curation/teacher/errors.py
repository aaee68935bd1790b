"""Errors of a chat server: those of one request, and those that every request would have."""

from typing import Literal


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

    `reason` is rate_limited, server_error, timeout, connection, bad_request or malformed.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail[:300]}")
        self.reason = reason
