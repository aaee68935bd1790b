"""What a server's answer says: its text, log-probabilities and usage, each checked before it is believed."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
TokenLogprob = tuple[str, float]
"""A token's text and its natural-log probability."""
Tokens = tuple[int, int]
"""Input and output tokens."""

BELIEVED = 100
"""Usage above this many times its upper bound is not believed: no tokeniser needs that many."""
BYTES, BYTES_PER_TOKEN = 65_536, 1024
"""Of an answer, whatever it holds, and for each output token: one token is at most some hundred characters,
which JSON may write with six bytes each."""


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


def longest_answer(max_tokens: int, logprobs: bool) -> int:
    """Bytes that an answer of so many tokens may have; each token lists twenty others with log-probabilities.

    An answer beyond it is not one to this request.
    """
    return BYTES + BYTES_PER_TOKEN * max_tokens * (21 if logprobs else 1)


def read_completion(body: bytes | str, bound: Tokens) -> tuple[Reply | None, Tokens | None]:
    """(reply, or None if the body is no chat completion; usage, or None if it is not given or not believed).

    bound: upper bound of the tokens of the request.
    """
    try:
        return _read(json.loads(body), bound)
    # RecursionError: brackets nested by the thousand
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return None, None


def _read(content: Any, bound: Tokens) -> tuple[Reply, Tokens | None]:
    choice = content["choices"][0]
    text = _text(choice["message"].get("content"))
    refused = choice["message"].get("refusal") and not text
    finish = "content_filter" if refused else str(choice.get("finish_reason"))[:40]
    usage = _usage(content.get("usage"), bound, bool(text))
    logprobs = _read_logprobs(choice.get("logprobs"))
    name = content.get("model")
    model = name[:200] if isinstance(name, str) else ""
    return Reply(text, logprobs, finish, *(usage or (0, 0)), model=model), usage


def _text(content: Any) -> str:
    """The text of a message: a string, a list of text parts, or nothing."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("the content of the message is no text")
    # Half of a surrogate pair cannot be sent back, nor written as UTF-8.
    return (content or "").encode("utf-8", "replace").decode()


def _usage(usage: Any, bound: Tokens, answered: bool) -> Tokens | None:
    """(input, output) tokens; None unless both are whole numbers that this request can have had.

    A count below the truth would lift the limit of the cost, one far above it would exhaust it.
    """
    if not isinstance(usage, dict):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    for count, least, most in zip(counts, (1, int(answered)), bound, strict=True):
        # type() and not isinstance(): JSON's true is no count
        if type(count) is not int or not least <= count <= BELIEVED * max(most, 1):
            return None
    return counts[0], counts[1]  # type: ignore[return-value]  # both are integers


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
