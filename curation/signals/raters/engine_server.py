"""Scoring by an OpenAI-compatible server (vLLM, SGLang, a paid service): one completion for each query."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from curation.pool.sample import Sample, Turn
from curation.signals.raters.engine import DigitLogProbs, Failed, Listed, read_digits
from curation.taxonomy import MAX_SCORE
from curation.teacher.chat import ChatClient, ChatFailure, Message, Reply, TokenLogprob
from curation.teacher.messages import Unsendable, conversation
from curation.teacher.parallel import in_order
from training.one_turn import BREAK, OneTurn

_DIGITS = {str(digit): digit for digit in range(MAX_SCORE + 1)}


class ServerEngine:
    """`concurrency` samples at a time, one query of a sample after the other, for the server's prefix cache.

    flat: how conversation and query are written as one user turn; False: a query is a turn after it. The
    server's own template places images, and what it does with a large one is its own affair.
    """

    def __init__(
        self, client: ChatClient, *, concurrency: int = 16, flat: OneTurn | Literal[False] = False
    ) -> None:
        self.client, self.concurrency, self.flat = client, concurrency, flat

    def digits(
        self, samples: Iterable[Sample], queries: Sequence[str]
    ) -> Iterator[list[DigitLogProbs | None] | Failed]:
        def score(messages: list[Message]) -> list[DigitLogProbs | None] | Failed:
            digits = []
            for query in queries:
                listed = self._listed(messages, query)
                if isinstance(listed, Failed):
                    return listed
                digits.append(
                    read_digits((_DIGITS.get(token.strip()), log_prob) for token, log_prob in listed)
                )
            return digits

        return self._each(samples, score)

    def write(self, samples: Iterable[Sample], query: str, max_tokens: int) -> Iterator[str | Failed]:
        return self._each(samples, lambda messages: self._ask(messages, query, max_tokens).text)

    def listed(self, samples: Sequence[Sample], query: str) -> list[Listed | Failed]:
        results = self._each(samples, lambda messages: self._listed(messages, query))
        return [result if isinstance(result, Failed) else dict(result) for result in results]

    def identity(self) -> dict[str, Any]:
        # Without the address: a resumed run may find the same model served from another one.
        return {"engine": "server", "model": self.client.model, "image_mode": "engine"}

    def summary(self) -> dict[str, Any]:
        cost = self.client.cost()
        return {
            "requests": cost.requests,
            "retried": cost.retried,
            "input_tokens": cost.input_tokens,
            "output_tokens": cost.output_tokens,
            "usd": round(cost.usd, 6),
            "unanswered": cost.unanswered,
            "unanswered_usd": round(cost.unanswered_usd, 6),
        }

    def _each(self, samples: Iterable[Sample], work: Callable[[list[Message]], Any]) -> Iterator[Any]:
        """`work` on the messages of every sample, in order; Failed where the sample or a request fails."""

        def attempt(messages: list[Message] | Failed) -> Any:
            if isinstance(messages, Failed):
                return messages
            try:
                return work(messages)
            except ChatFailure as failure:
                return Failed(failure.reason)

        return in_order(attempt, map(self._messages, samples), self.concurrency)

    def _listed(self, messages: list[Message], query: str) -> tuple[TokenLogprob, ...] | Failed:
        reply = self._ask(messages, query, max_tokens=1, logprobs=True)
        return reply.logprobs[0] if reply.logprobs and reply.logprobs[0] else Failed("no_logprobs")

    def _ask(self, messages: list[Message], query: str, max_tokens: int, logprobs: bool = False) -> Reply:
        if self.flat:
            *system, asked, _ = messages  # the last is the empty answer of `_as_one_turn`
            with_query = [*system, _ending(asked, self.flat.joiner + query)]
        else:
            with_query = [*messages, {"role": "user", "content": query}]
        return self.client.complete(with_query, max_tokens, logprobs=logprobs)

    def _messages(self, sample: Sample) -> list[Message] | Failed:
        try:
            return [*conversation(_as_one_turn(sample, self.flat) if self.flat else sample)]
        except Unsendable as error:
            return Failed(error.reason, engine=False)


def _as_one_turn(sample: Sample, form: OneTurn) -> Sample:
    text = form.text((turn.question, turn.answer) for turn in sample.turns).replace(BREAK, "")
    system = form.system if sample.system is None else sample.system
    return replace(sample, system=system, turns=(Turn(text, ""),))


def _ending(message: Message, text: str) -> Message:
    if isinstance(message["content"], str):
        return {"role": "user", "content": message["content"] + text}
    *parts, last = message["content"]
    return {"role": "user", "content": [*parts, {"type": "text", "text": last["text"] + text}]}
