"""A chat model as judge of answers: 0 to 100, from the text alone, read strictly."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from curation.pool.sample import IMAGE_PLACEHOLDER
from curation.signals.raters.engine import EngineError
from curation.teacher.chat import ChatClient, ChatFailure
from curation.teacher.parallel import in_order

if TYPE_CHECKING:
    from curation.pool.sample import Sample

PROMPT = (
    "You grade training data for a vision assistant. You cannot see the images. Below is a conversation. "
    "Grade how helpful, relevant, accurate and well written the assistant's answers are, "
    "from 0 (useless) to 100 (excellent).\n"
    "Reply with the number alone.\n\n{conversation}"
)
ANSWER_TOKENS = 8
_GRADE = re.compile(r"(\d{1,3})(?:\s*/\s*100)?\.?")


class Judge:
    """Requests one grade for each item, `concurrency` at a time. options: those of ChatClient.

    prompt: the request, with the places that `fields` (item -> text by place) fills; by default items are
    samples, and their own answers are graded. Raises EngineError when more than the share `max_failed` of the
    items graded together (a shard) get no grade.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        *,
        max_failed: float = 0.05,
        concurrency: int = 16,
        prompt: str = PROMPT,
        fields: Callable[[Any], dict[str, str]] | None = None,
        **options: Any,
    ) -> None:
        self.client = ChatClient(base_url, model, **options)
        self.prompt, self.fields = prompt, fields or _conversation
        self.max_failed, self.concurrency = max_failed, concurrency
        self.missing: Counter[str] = Counter()

    def identity(self) -> dict[str, Any]:
        prompt_hash = hashlib.sha256(self.prompt.encode()).hexdigest()[:16]
        return {"model": self.client.model, "prompt_hash": prompt_hash}

    def grade(self, items: Sequence[Any], advance: Callable[[float], None]) -> list[float | None]:
        grades: list[float | None] = []
        failed: Counter[str] = Counter()
        for result in in_order(self._ask, items, self.concurrency):
            if isinstance(result, str):
                failed[result] += 1
                grades.append(None)
            else:
                grades.append(result)
            advance(1)
        if failed.total() > self.max_failed * len(items):
            raise EngineError(
                f"the judge {self.client.model} returned no grade for {failed.total()} of "
                f"{len(items)} items ({dict(failed)}): "
                "check the model, or allow more failures with max_failed"
            )
        self.missing += failed
        return grades

    def summary(self) -> dict[str, Any]:
        cost = self.client.cost()
        counts = {
            "requests": cost.requests,
            "input_tokens": cost.input_tokens,
            "output_tokens": cost.output_tokens,
            "usd": round(cost.usd, 6),
            "unanswered": cost.unanswered,
            "unanswered_usd": round(cost.unanswered_usd, 6),
        }
        return {"missing": dict(self.missing), **counts}

    def _ask(self, item: Any) -> float | str:
        """The grade, or the reason for its absence."""
        message = {"role": "user", "content": self.prompt.format(**self.fields(item))}
        try:
            reply = self.client.complete([message], ANSWER_TOKENS)
        except ChatFailure as failure:
            return failure.reason
        grade = read_grade(reply.text)
        return "unreadable" if grade is None else grade


def _conversation(sample: "Sample") -> dict[str, str]:
    return {"conversation": transcript(sample)}


def read_grade(text: str) -> float | None:
    """The number in "85", "85." or "85/100"; None for any other text, and for a number above 100."""
    match = _GRADE.fullmatch(text.strip())
    return float(match[1]) if match and int(match[1]) <= 100 else None


def transcript(sample: "Sample") -> str:
    """The conversation as plain text without image placeholders."""
    turns = [
        f"User: {turn.question.replace(IMAGE_PLACEHOLDER, ' ').strip()}\nAssistant: {turn.answer.strip()}"
        for turn in sample.turns
    ]
    return "\n\n".join([*([f"System: {sample.system.strip()}"] if sample.system else []), *turns])
