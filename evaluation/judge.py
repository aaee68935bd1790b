"""The judge stage: a language model grades answers, or reads values out of them, through a chat server.

    server = JudgeServer.preset("vllm", "Qwen/Qwen2.5-32B-Instruct", version="fp8")
    requests = requests_of(benchmark.judge, benchmark.name, task, docs, answers)
    values = judge(requests, prompt_of(benchmark.judge), server, Path("eval/judgements")).values

Either every request gets a verdict, or the benchmark has no value: JudgeFailed says how many verdicts are
missing and why. A reply is kept as soon as it is paid for, so another call asks only for what is missing.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from curation.printable import printable, visible
from curation.progress import Progress
from curation.teacher.answers import KeptAnswers
from curation.teacher.base import Cost
from curation.teacher.chat import ChatClient, ChatFailure, ChatSetupError, CostCapReached, Message
from curation.teacher.parallel import in_order
from evaluation.judge_prompt import Fields, Prompt, PromptError, fields_of, prompt_of
from evaluation.suite import Judge

ENOUGH = 20
"""After this many requests without a verdict no other is sent: the judge does not work."""
PRESETS: dict[str, str | None] = {
    "vllm": "http://localhost:8000/v1",
    "sglang": "http://localhost:30000/v1",
    "openai": None,
}
"""Addresses by name: those at which vLLM and SGLang serve unless told otherwise, and OpenAI's own."""


@dataclass(frozen=True)
class Request:
    """One answer to judge: `fields` are its question, reference and so on, see `evaluation.judge_prompt`."""

    benchmark: str
    task: str
    index: int
    fields: Fields


@dataclass(frozen=True)
class Verdict:
    """`value`: a grade (kind score) or the text that was read (kind extract); `reply` is the judge's own.

    `attempts`: replies until one had the form. `model`: what the server says has answered.
    """

    value: float | str
    reply: str
    attempts: int
    model: str


@dataclass(frozen=True)
class Judgements:
    """The verdicts in the order of the requests; `cost` of this call, `models` that the server named."""

    verdicts: tuple[Verdict, ...]
    cost: dict[str, Any]
    models: tuple[str, ...]

    @property
    def values(self) -> list[float | str]:
        return [verdict.value for verdict in self.verdicts]


class JudgeFailed(RuntimeError):
    """Verdicts are missing, so the benchmark has no value; the message says why and what to do.

    `why`: the reason in words, without addresses and paths. `reasons`: missing verdicts by reason (timeout,
    rate_limited, server_error, connection, bad_request, malformed, refused, invalid_reply; address, key,
    model, cost_cap; not_asked: after a lasting problem). `cost`: that of this call.
    """

    def __init__(self, why: str, advice: str, reasons: Mapping[str, int], cost: Mapping[str, Any]) -> None:
        super().__init__(f"{why}. {advice}")
        self.why, self.reasons, self.cost = why, dict(reasons), dict(cost)


@dataclass(frozen=True)
class JudgeServer:
    """How a judge is reached and what it may cost. Its model and version are part of the protocol.

    version: what the name does not say of the weights, such as a revision or a quantisation. base_url: None
    is OpenAI's. workers: requests at a time. attempts: replies that are paid for per request, the first and
    those after a reply without the form that was asked for. The other settings are those of ChatClient;
    max_cost_usd limits one call of `judge`, or all calls with the same client.
    """

    model: str
    version: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    workers: int = 8
    attempts: int = 3
    timeout: float = 60.0
    deadline: float | None = 300.0
    retries: int = 4
    input_price: float = 0.0
    output_price: float = 0.0
    max_cost_usd: float | None = None
    token_field: str = "max_tokens"

    @classmethod
    def preset(cls, name: str, model: str, **settings: Any) -> Self:
        """The server at a preset's address, or at `base_url` if that is given. Raises ValueError."""
        if name not in PRESETS:
            raise ValueError(f"judge server {name!r} does not exist: presets are {', '.join(PRESETS)}")
        return cls(model, **{"base_url": PRESETS[name], **settings})

    def client(self) -> ChatClient:
        """A client of this server. Raises ChatSetupError (no key), ValueError (a cost cap without prices)."""
        own = asdict(self)
        for name in ("version", "workers", "attempts"):
            del own[name]
        return ChatClient(own.pop("base_url"), own.pop("model"), **own)


def protocol(prompt: Prompt, server: JudgeServer) -> dict[str, Any]:
    """What decides the verdicts on given answers: two results are comparable only if it is equal."""
    return {
        "judge_model": server.model,
        "judge_version": server.version,
        "prompt": prompt.name,
        "prompt_version": prompt.version,
        "prompt_sha256": prompt.sha256,
        "grammar": {name: form.grammar for name, form in prompt.forms.items()},
        "attempts": server.attempts,
        "temperature": 0.0,
        "deviations": list(prompt.deviations),
    }


def requests_of(
    judge: Judge,
    benchmark: str,
    task: str,
    docs: Mapping[int, Mapping[str, Any]],
    answers: Mapping[int, str],
) -> list[Request]:
    """The requests for those answers to a task that the judge must see; both mappings are by index.

    An answer without a request is read by the benchmark's own rules. Raises PromptError.
    """
    prompt = prompt_of(judge)
    fields = {index: fields_of(judge, docs[index], text) for index, text in answers.items()}
    return [Request(benchmark, task, i, own) for i, own in fields.items() if prompt.needs_judge(own)]


def judge(
    requests: Sequence[Request],
    prompt: Prompt,
    server: JudgeServer,
    out: Path,
    *,
    client: ChatClient | None = None,
    on_progress: Progress | None = None,
) -> Judgements:
    """Verdicts on all requests; replies are kept in the folder `out`, which several calls may share.

    A request that was judged before, by the same model, version and prompt, is not sent again, unless no
    reply to it had the form; equal requests are sent once. `client`: share one between benchmarks to share
    its cost cap. Raises JudgeFailed, and PromptError for a request without a field that the prompt needs
    (before anything is sent).
    """
    cases = [_Case.of(request, prompt) for request in requests]
    if not cases:  # the rules could read every answer: no server is needed
        return Judgements((), _spent(Cost(), Cost(), 0), ())
    try:
        client = client or server.client()
    except ChatSetupError as error:
        missing = {case: _Missing(error.about, str(error)) for case in cases}
        raise _failure(cases, missing, out, _spent(Cost(), Cost(), 0)) from error
    if client.model != server.model:
        raise ValueError(f"the client's model {client.model!r} is not the judge {server.model!r}")
    kept = KeptAnswers(client, out, [server.version, prompt.sha256])
    before, asker, once = kept.cost(), _Asker(prompt, kept, server.attempts), list(dict.fromkeys(cases))
    for done, _ in enumerate(in_order(asker, once, server.workers), 1):
        if on_progress:
            on_progress(done, len(once))
    cost = _spent(kept.cost(), before, asker.invalid)
    if any(isinstance(outcome, _Missing) for outcome in asker.outcomes.values()):
        raise _failure(cases, asker.outcomes, out, cost)
    verdicts = tuple(v for case in cases if isinstance(v := asker.outcomes[case], Verdict))
    return Judgements(verdicts, cost, tuple(sorted({verdict.model for verdict in verdicts})))


@dataclass(frozen=True)
class _Case:
    """What is sent for a request. Cases that are equal get the same verdict."""

    text: str
    read_as: str
    request: Request = field(compare=False)

    @classmethod
    def of(cls, request: Request, prompt: Prompt) -> Self:
        fields = request.fields
        try:
            text = prompt.text(fields)
        except PromptError as error:
            raise PromptError(f"{_named(request)}: {error}") from error
        return cls(text, repr((prompt.form(fields).grammar, fields.get("choices"))), request)


@dataclass(frozen=True)
class _Missing:
    """Why a case has no verdict."""

    reason: str
    problem: str


class _Asker:
    """Asks for one case after the other, from several threads; `outcomes` are what has come of them."""

    def __init__(self, prompt: Prompt, kept: KeptAnswers, attempts: int) -> None:
        self.prompt, self.kept, self.attempts = prompt, kept, attempts
        self.outcomes: dict[_Case, Verdict | _Missing] = {}
        self.invalid, self._missing, self._stopped = 0, 0, False
        self._lock = threading.Lock()

    def __call__(self, case: _Case) -> None:
        if self._stopped:
            self.outcomes[case] = _Missing("not_asked", "not asked after a lasting problem")
            return
        lasting = False
        try:
            outcome = self._verdict(case)
        except ChatFailure as failure:
            outcome = _Missing(failure.reason, str(failure))
        except ChatSetupError as error:
            outcome, lasting = _Missing(error.about, str(error)), True
        except CostCapReached as error:
            outcome, lasting = _Missing("cost_cap", str(error)), True
        with self._lock:
            self.outcomes[case] = outcome
            self._missing += isinstance(outcome, _Missing)
            self._stopped |= lasting or self._missing >= ENOUGH

    def _verdict(self, case: _Case) -> Verdict | _Missing:
        fields, first, keys = case.request.fields, "", []
        messages: list[Message] = [{"role": "user", "content": case.text}]
        for attempt in range(1, self.attempts + 1):
            reply = self.kept.complete(messages, self.prompt.max_tokens)
            if reply.finish_reason == "content_filter":
                return _Missing("refused", "the judge's service refuses this text")
            value = self.prompt.read(fields, reply.text)
            if value is not None and reply.finish_reason != "length":  # else its end may be missing
                return Verdict(value, reply.text, attempt, reply.model)
            keys.append(self.kept.key(messages, self.prompt.max_tokens))
            with self._lock:
                self.invalid += 1
            first = first or f"the judge replied {_quoted(reply.text)}, not {self.prompt.form(fields).ask}"
            messages += [
                {"role": "assistant", "content": reply.text or "(empty)"},
                {"role": "user", "content": self.prompt.repeat(fields)},
            ]
        for key in keys:
            self.kept.reject(key)
        return _Missing("invalid_reply", first)


def _failure(
    cases: Sequence[_Case], outcomes: Mapping[_Case, Verdict | _Missing], out: Path, cost: Mapping[str, Any]
) -> JudgeFailed:
    """The error for all cases together: counts by reason, the first problem, and what to do."""
    missing = [(case, outcome) for case in cases if isinstance(outcome := outcomes[case], _Missing)]
    reasons = Counter(outcome.reason for _, outcome in missing)
    names = ", ".join(sorted({case.request.benchmark for case in cases}))
    counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    case, first = next(entry for entry in missing if entry[1].reason != "not_asked")
    again = (
        "; if its replies stay without the form, give the judge another prompt, or take another judge"
        if "invalid_reply" in reasons
        else ""
    )
    why = f"{names}: {len(missing)} of {len(cases)} judgements are missing ({counts}), so it has no value"
    advice = (
        f"{_named(case.request)}: {visible(first.problem)}. What was answered is kept in {out}, another run "
        f"asks only for the rest{again}"
    )
    return JudgeFailed(why, advice, reasons, cost)


def _named(request: Request) -> str:
    return f"{request.task}, question {request.index}"


def _quoted(text: str) -> str:
    return f"'{printable(text)}'" if text.strip() else "nothing"


def _spent(after: Cost, before: Cost, invalid: int) -> dict[str, Any]:
    """What was spent between two states of a client, and the number of replies without a verdict."""
    start = asdict(before)
    spent = {name: value - start[name] for name, value in asdict(after).items()}
    return spent | {"invalid_replies": invalid}
