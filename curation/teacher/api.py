"""A teacher behind a chat-completions server: one request per sample; scores and styles in one JSON answer.

    client = ChatClient(None, "gpt-4o", input_price=2.5, output_price=10, max_cost_usd=50)
    label_pool(pool, ApiTeacher(client, cache=Path("cache")), out, share=0.05)

Every answer is written to the cache as it arrives, so an interrupted or capped run pays for nothing twice. An
answer that could not be used, also after it was sent back, is asked for again in the next run.
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from curation.pool.sample import Sample
from curation.teacher.answers import KeptAnswers
from curation.teacher.base import Cost
from curation.teacher.batch import Batches, BatchOptions, BatchRequest
from curation.teacher.chat import ChatClient, ChatFailure, Message, Reply, TooManyFailures
from curation.teacher.messages import Unsendable
from curation.teacher.parallel import in_order
from curation.teacher.prompt import (
    TASK,
    InvalidAnswer,
    answer_schema,
    messages_about,
    read_label,
    system_prompt,
)
from curation.teacher.rubric import FAILURES, Label, missing_label

EARLY = 20
"""From this many failures on, a share above `max_failed` stops the run before all samples are done."""


class ApiTeacher:
    """Labels samples by requests to `client`, `concurrency` at a time.

    task: the instruction; the rubric and the style keys are appended to it.
    cache: directory of answers, see curation.teacher.answers; None: no cache.
    repeats: how often an invalid answer is sent back with what is wrong with it; after that the label is
        missing (invalid_answer, or refused).
    detail: the protocol's image detail (low, high, auto). json_schema: whether the server supports a schema
        for the answer; answers are checked in either case.
    max_failed: share of the samples for which the teacher may fail (FAILURES).
    batch: first requests go to the service's batch endpoint (`prepare`), which needs `cache`.
    A sample that cannot be sent or answered yields a missing label with the reason; TooManyFailures,
    ChatSetupError and CostCapReached are raised.
    """

    name = "api"

    def __init__(
        self,
        client: ChatClient,
        *,
        task: str = TASK,
        cache: Path | None = None,
        concurrency: int = 8,
        repeats: int = 2,
        detail: str | None = None,
        json_schema: bool = True,
        max_tokens: int = 512,
        max_failed: float = 1.0,
        batch: BatchOptions | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if batch is not None and cache is None:
            raise ValueError("a batch needs a cache: its answers arrive in one and are read from it")
        self.client, self.concurrency, self.repeats = client, concurrency, repeats
        self.answers = KeptAnswers(client, cache)
        self.detail, self.json_schema = detail, json_schema
        self.max_tokens, self.max_failed = max_tokens, max_failed
        self.task, self.batch, self.say = task, batch, say
        self._order(backwards=False)

    def label(self, samples: Iterable[Sample]) -> Iterator[Label]:
        failed: Counter[str] = Counter()
        asked = 0
        for label in in_order(
            self._label, ((sample, self._messages(sample)) for sample in samples), self.concurrency
        ):
            asked += 1
            failed.update([label.missing] if label.missing in FAILURES else [])
            if failed.total() >= EARLY:
                self._check(failed, asked)
            yield label
        self._check(failed, asked)

    def prepare(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """In batch mode: have the first request about each sample answered by the batch endpoint.

        What a batch leaves without an answer is in the next one, up to `rounds`; `label` requests the rest.
        """
        if self.batch is None or self.answers.folder is None:
            return
        batches = Batches(self.client, self.answers.folder / "batches", self.batch, self.say)
        with batches.locked():
            batches.resume(self._keep)
            for _ in range(self.batch.rounds):
                if batches.run(self._unanswered(samples()), self._keep) == 0:
                    break

    def second(self) -> Self:
        """The same teacher, asked with capabilities and styles in reverse order; its cost is shared."""
        other = copy.copy(self)
        other._order(backwards=True)
        return other

    def describe(self) -> dict[str, Any]:
        prompt = [self.system, self.schema]
        return {
            "teacher": self.name,
            "model": self.client.model,
            "prompt_hash": hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:12],
            "detail": self.detail,
            "json_schema": self.json_schema,
            "repeats": self.repeats,
            "max_tokens": self.max_tokens,
        }

    def cost(self) -> Cost:
        return self.answers.cost()

    def _order(self, backwards: bool) -> None:
        self.system, self.schema = system_prompt(self.task, backwards), answer_schema(backwards)

    def _check(self, failed: Counter, asked: int) -> None:
        if failed.total() > self.max_failed * asked:
            raise TooManyFailures(
                f"{self.client.model} gave no label for {failed.total()} of {asked} samples "
                f"({dict(sorted(failed.items()))}), more than {self.max_failed:.1%}: check the server's log "
                "and the model; a new run requests only the samples without a label"
            )

    def _messages(self, sample: Sample) -> list[Message] | Unsendable:
        try:
            return messages_about(sample, self.system, self.detail)
        except Unsendable as error:
            return error

    def _label(self, asked: tuple[Sample, list[Message] | Unsendable]) -> Label:
        sample, messages = asked
        if isinstance(messages, Unsendable):
            return missing_label(sample.row, sample.id, messages.reason)
        keys = []
        for _ in range(self.repeats + 1):
            try:
                reply = self.answers.complete(messages, self.max_tokens, self._format(), problem_of)
            except ChatFailure as failure:
                return missing_label(sample.row, sample.id, failure.reason)
            if reply.finish_reason == "content_filter":
                return missing_label(sample.row, sample.id, "refused")
            try:
                return read_label(sample.row, sample.id, reply.text)
            except InvalidAnswer as error:
                keys.append(self.answers.key(messages, self.max_tokens, self._format()))
                complaint = f"This is not a valid answer: {error}. Answer again with the JSON object alone."
                messages = [
                    *messages,
                    {"role": "assistant", "content": reply.text},
                    {"role": "user", "content": complaint},
                ]
        for key in keys:
            self.answers.reject(key)
        return missing_label(sample.row, sample.id, "invalid_answer")

    def _unanswered(self, samples: Iterable[Sample]) -> Iterator[BatchRequest]:
        """The first request about each sample that has no answer; equal ones once."""
        seen: set[str] = set()
        for sample in samples:
            messages = self._messages(sample)
            if isinstance(messages, Unsendable):
                continue
            key = self.answers.key(messages, self.max_tokens, self._format())
            if key not in seen and not self.answers.has(key):
                body = self.client.body(messages, self.max_tokens, response_format=self._format())
                yield BatchRequest(key, body, self.client.bound(messages, self.max_tokens))
            seen.add(key)

    def _keep(self, key: str, reply: Reply) -> None:
        self.answers.keep(key, reply, problem_of)

    def _format(self) -> dict[str, Any] | None:
        schema = {"name": "label", "strict": True, "schema": self.schema}
        return {"type": "json_schema", "json_schema": schema} if self.json_schema else None


def problem_of(reply: Reply) -> str | None:
    """What makes an answer no label, in 200 characters; None if it is one."""
    try:
        read_label(0, "", reply.text)
    except InvalidAnswer as error:
        return str(error)[:200]
    return None
