"""A teacher behind a chat-completions server: one request per sample; scores and styles in one JSON answer.

    client = ChatClient(None, "gpt-4o", input_price=2.5, output_price=10, max_cost_usd=50)
    label_pool(pool, ApiTeacher(client, cache=Path("cache")), out, share=0.05)

mmSSR (arXiv 2503.13383) labels with one GPT-4o prompt; its wording is not published, this one is ours. Every
answer, also an invalid one, is written to the cache as it arrives, so an interrupted or capped run pays for
nothing twice.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from curation.pool.sample import Sample
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE, STYLES
from curation.teacher.answers import KeptAnswers
from curation.teacher.base import Cost
from curation.teacher.chat import ChatClient, ChatFailure, Message, TooManyFailures
from curation.teacher.messages import Unsendable, conversation
from curation.teacher.parallel import in_order
from curation.teacher.rubric import Label, missing_label, rubric_text

# Backslashes only wrap the source: the text must stay as it is, cached answers and prompt hashes depend on
# it.
TASK = """\
You judge training data for multimodal models. You are shown one training sample: images, and a \
conversation about them.
For each capability, say how useful training on this sample would be for that capability, as a score \
from the list below. Judge the
sample as it is: if an answer is wrong or does not fit the image, every score is 0. Then name the \
interaction styles that the
answers show; there may be several.
Answer with one JSON object and nothing else: the capability names before the colons as keys with \
integer scores, and "styles", a list
of style keys."""

ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{
            capability: {"type": "integer", "enum": list(range(MAX_SCORE + 1))}
            for capability in CAPABILITY_KEYS
        },
        "styles": {"type": "array", "items": {"type": "string", "enum": list(STYLES)}},
    },
    "required": [*CAPABILITY_KEYS, "styles"],
    "additionalProperties": False,
}


FAILURES = {"rate_limited", "server_error", "timeout", "bad_request", "malformed", "invalid_answer"}
"""Reasons that count against `max_failed`. Broken images and refusals by the teacher do not."""
EARLY = 20
"""From this many failures on, a share above `max_failed` stops the run before all samples are done."""


_HEADINGS = {"system": "System prompt:", "user": "Question:", "assistant": "Answer:"}


class InvalidAnswer(ValueError):
    """An answer that is not a valid label; the message is sent back to the teacher."""


class ApiTeacher:
    """Labels samples by requests to `client`, `concurrency` at a time.

    task: the instruction; the rubric and the style keys are appended to it.
    cache: directory of answers, see curation.teacher.answers; None: no cache.
    repeats: how often an invalid answer is sent back with what is wrong with it; after that the label is
        missing (invalid_answer, or refused).
    detail: the protocol's image detail (low, high, auto). json_schema: whether the server supports a schema
        for the answer; answers are checked in either case.
    max_failed: share of the samples for which the teacher may fail (FAILURES).
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
    ) -> None:
        self.client, self.concurrency, self.repeats = client, concurrency, repeats
        self.answers = KeptAnswers(client, cache)
        self.detail, self.json_schema = detail, json_schema
        self.max_tokens, self.max_failed = max_tokens, max_failed
        self.system = _system(task)

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

    def describe(self) -> dict[str, Any]:
        prompt = [self.system, ANSWER_SCHEMA]
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

    def _check(self, failed: Counter, asked: int) -> None:
        if failed.total() > self.max_failed * asked:
            raise TooManyFailures(
                f"{self.client.model} gave no label for {failed.total()} of {asked} samples "
                f"({dict(sorted(failed.items()))}), more than {self.max_failed:.1%}: check the server's log "
                "and the model; a new run requests only the samples without an answer"
            )

    def _messages(self, sample: Sample) -> list[Message] | Unsendable:
        try:
            turns = conversation(sample, self.detail)
        except Unsendable as error:
            return error
        parts: list[dict[str, Any]] = []
        for turn in turns:
            content = (
                turn["content"]
                if isinstance(turn["content"], list)
                else [{"type": "text", "text": turn["content"]}]
            )
            parts += [
                {"type": "text", "text": _HEADINGS[turn["role"]]},
                *content,
            ]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": parts}]

    def _label(self, asked: tuple[Sample, list[Message] | Unsendable]) -> Label:
        sample, messages = asked
        if isinstance(messages, Unsendable):
            return missing_label(sample.row, sample.id, messages.reason)
        for _ in range(self.repeats + 1):
            try:
                reply = self.answers.complete(messages, self.max_tokens, self._format())
            except ChatFailure as failure:
                return missing_label(sample.row, sample.id, failure.reason)
            if reply.finish_reason == "content_filter":
                return missing_label(sample.row, sample.id, "refused")
            try:
                return _read(sample, reply.text)
            except InvalidAnswer as error:
                complaint = f"This is not a valid answer: {error}. Answer again with the JSON object alone."
                messages = [
                    *messages,
                    {"role": "assistant", "content": reply.text},
                    {"role": "user", "content": complaint},
                ]
        return missing_label(sample.row, sample.id, "invalid_answer")

    def _format(self) -> dict[str, Any] | None:
        schema = {"name": "label", "strict": True, "schema": ANSWER_SCHEMA}
        return {"type": "json_schema", "json_schema": schema} if self.json_schema else None


def _system(task: str) -> str:
    keys = "\n".join(f"{key}: {phrase}" for key, phrase in STYLES.items())
    return f"{task.strip()}\n\n{rubric_text()}\n\nStyle keys\n{keys}"


def _read(sample: Sample, text: str) -> Label:
    """The label in an answer; Markdown fences around it are removed. Raises InvalidAnswer."""
    try:
        answer = json.loads(text.strip().removeprefix("```json").removeprefix("```").removesuffix("```"))
    except json.JSONDecodeError as error:
        raise InvalidAnswer(f"it is not JSON ({error})") from error
    if not isinstance(answer, dict) or set(answer) != {*CAPABILITY_KEYS, "styles"}:
        raise InvalidAnswer(
            f"it must be an object with exactly the keys {', '.join(CAPABILITY_KEYS)} and styles"
        )
    scores = {capability: answer[capability] for capability in CAPABILITY_KEYS}
    # type() and not isinstance(): JSON's true is no score
    if wrong := [
        capability
        for capability, score in scores.items()
        if type(score) is not int or not 0 <= score <= MAX_SCORE
    ]:
        raise InvalidAnswer(f"{wrong[0]} must be an integer from 0 to {MAX_SCORE}")
    styles = answer["styles"]
    if not isinstance(styles, list) or any(style not in STYLES for style in map(str, styles)):
        raise InvalidAnswer(f"styles must be a list of {', '.join(STYLES)}")
    return Label(sample.row, sample.id, scores, tuple(style for style in STYLES if style in styles))
