"""What requests cost: counted for every attempt, and limited before a request is sent."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from curation.teacher.base import Cost
from curation.teacher.completion import Message, Tokens
from curation.teacher.errors import CostCapReached


class Purse:
    """The cost of the requests to one model; thread-safe.

    prices: US dollars per million input and output tokens. cap: no request is let go that might exceed it,
    None sets no limit. `share` of the prices is paid where it is given (batch requests cost half).
    """

    def __init__(self, model: str, prices: tuple[float, float], cap: float | None) -> None:
        self.model, self.prices, self.cap = model, prices, cap
        self._cost = Cost()
        self._held: list[float] = []
        self._changed = threading.Condition()

    def cost(self) -> Cost:
        with self._changed:
            return self._cost

    def usd(self, tokens: Tokens, share: float = 1.0) -> float:
        return share * (tokens[0] * self.prices[0] + tokens[1] * self.prices[1]) / 1e6

    def left(self) -> float:
        """Dollars below the limit that no request under way may need."""
        with self._changed:
            return float("inf") if self.cap is None else self.cap - self._cost.usd - sum(self._held)

    @contextmanager
    def reserved(self, bound: Tokens, share: float = 1.0) -> Iterator[None]:
        """Reserve the most that a request may cost; waits while requests under way may still free money."""
        held = self.usd(bound, share)
        with self._changed:
            while self.cap is not None and self._cost.usd + sum(self._held) + held > self.cap:
                if not self._held:
                    raise CostCapReached(self._reached(held))
                self._changed.wait()
            self._held.append(held)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(held)
                self._changed.notify_all()

    def answered(self, tokens: Tokens, share: float = 1.0) -> None:
        """Add an answer."""
        with self._changed:
            c = self._cost
            self._cost = replace(
                c,
                requests=c.requests + 1,
                input_tokens=c.input_tokens + tokens[0],
                output_tokens=c.output_tokens + tokens[1],
                usd=c.usd + self.usd(tokens, share),
            )

    def unanswered(self, bound: Tokens) -> None:
        """Add an attempt whose answer never came: it may have been computed and billed, at most in full."""
        with self._changed:
            c, usd = self._cost, self.usd(bound)
            self._cost = replace(
                c, unanswered=c.unanswered + 1, unanswered_usd=c.unanswered_usd + usd, usd=c.usd + usd
            )

    def retried(self) -> None:
        with self._changed:
            self._cost = replace(self._cost, retried=self._cost.retried + 1)

    def _reached(self, next_usd: float) -> str:
        c = self._cost
        lost = (
            f" (${c.unanswered_usd:.4f} of it for {c.unanswered} attempts without an answer, which may have "
            "been billed)"
            if c.unanswered
            else ""
        )
        return (
            f"${c.usd:.4f} of ${self.cap} are spent on {c.requests} requests to {self.model}{lost}, and the "
            f"next might cost ${next_usd:.4f}: raise max_cost_usd to go on"
        )


def input_bound(messages: Sequence[Message], image_tokens: int) -> int:
    """Upper bound of the input tokens: a token is at least one byte, a turn's markup a few tokens."""
    parts = [part for message in messages for part in parts_of(message["content"])]
    text = sum(len(part["text"].encode("utf-8", "replace")) for part in parts if part["type"] == "text")
    return text + image_tokens * sum(part["type"] != "text" for part in parts) + 16 * (len(messages) + 1)


def parts_of(content: Any) -> list[dict[str, Any]]:
    """A message's content as a list of parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
