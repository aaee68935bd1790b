"""Requests by the batch endpoint of OpenAI's protocol: answered within a day, for half the price.

    batches = Batches(client, Path("answers/batches"), BatchOptions(), print)
    with batches.locked():
        batches.resume(keep)                 # those that a killed run left under way
        batches.run(requests, keep)

A batch is a file of requests that is uploaded, a job, and one file of answers and one of errors. Its state
is on disk before anything is waited for, so a killed run goes on with the job that it paid for. Requests that
the service did not answer (an error, an expired or cancelled batch) stay unanswered here: the caller asks
again.
"""

import contextlib
import fcntl
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curation import atomic, killpoints
from curation.printable import printable
from curation.teacher.chat import ChatClient, ChatError, ChatFailure, ChatSetupError, backoff
from curation.teacher.completion import Reply, Tokens, longest_answer, read_completion
from curation.teacher.errors import CostCapReached
from curation.teacher.money import input_bound

ENDED = {"completed", "failed", "expired", "cancelled"}
"""States of a batch that do not change any more."""
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
UPLOAD_SECONDS = 1800.0
"""Time limit for a file of requests, or of answers."""
LINE_BYTES = 4096
"""Of a line of answers, beside the answer itself."""

Keep = Callable[[str, Reply], None]
"""Keeps the answer to the request with this key."""


@dataclass(frozen=True)
class BatchOptions:
    """price: share of the usual prices. poll: seconds between two questions for the state. rounds: batches,
    each with what the one before left unanswered. hours: how long one is waited for. max_requests, max_bytes:
    of one file (OpenAI's limits are 50,000 and 200 MB).
    """

    price: float = 0.5
    poll: float = 60.0
    rounds: int = 2
    hours: float = 26.0
    max_requests: int = 10_000
    max_bytes: int = 150_000_000


@dataclass(frozen=True)
class BatchRequest:
    """A request by the key of its answer; `bound` is the upper bound of its tokens."""

    key: str
    body: dict[str, Any]
    bound: Tokens

    def line(self) -> bytes:
        own = {"custom_id": self.key, "method": "POST", "url": "/v1/chat/completions", "body": self.body}
        return json.dumps(own, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


@dataclass(frozen=True)
class _State:
    """What is known of a batch: of a job that was asked for, `tag` finds it on the server."""

    name: str
    tag: str
    model: str
    base_url: str
    requests: int
    bound: Tokens
    file: str | None = None
    batch: str | None = None
    done: bool = False


class BatchLate(ChatError):
    """A batch has not ended in time; a new run goes on waiting for it."""


class Batches:
    """The batches of one model; `folder` holds a file of requests and a state for each of them."""

    def __init__(
        self, client: ChatClient, folder: Path, options: BatchOptions, say: Callable[[str], None]
    ) -> None:
        self.client, self.folder, self.options, self.say = client, folder, options, say

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time: two would import, and pay for, the same batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def resume(self, keep: Keep) -> int:
        """Wait for the batches that an earlier run left, and keep their answers; returns their number."""
        left = self._left()
        if left:
            self.say(f"{self.client.model}: {len(left)} batches of an earlier run are waited for")
        for state in left:
            self._finish(self._submitted(state), keep)
        return len(left)

    def run(self, requests: Iterable[BatchRequest], keep: Keep) -> int:
        """Have the requests answered, as many batches at a time as the cost cap allows; returns their number.

        Raises CostCapReached if not even one request may be sent.
        """
        sent, ahead = 0, _Ahead(iter(requests))
        states: list[_State] = []
        with contextlib.ExitStack() as reserved:
            while ahead.next is not None:
                if (chunk := self._chunk(ahead)) is None:
                    if not states:
                        raise CostCapReached(self._too_dear(ahead.next))
                    self._finish_all(states, keep, reserved)
                    continue
                sent += chunk.requests
                reserved.enter_context(self.client.purse.reserved(chunk.bound, self.options.price))
                states.append(self._submitted(chunk))
                self.say(f"{self.client.model}: batch {states[-1].batch}: {chunk.requests:,} requests")
            self._finish_all(states, keep, reserved)
        return sent

    # --------------------------------------------------------------------------------------- on the way out

    def _chunk(self, ahead: "_Ahead") -> _State | None:
        """Write the next file of requests; None if not even one more may cost what it might."""
        name, left = uuid.uuid4().hex[:12], self.client.purse.left()
        count, size, bound = 0, 0, (0, 0)
        path = self.folder / f"{name}.jsonl"
        with atomic.replacing(path) as temporary, temporary.open("wb") as file:
            while (request := ahead.next) is not None and count < self.options.max_requests:
                line, more = request.line(), (bound[0] + request.bound[0], bound[1] + request.bound[1])
                over = count > 0 and size + len(line) > self.options.max_bytes
                if over or self.client.purse.usd(more, self.options.price) > left:
                    break
                file.write(line)
                count, size, bound = count + 1, size + len(line), more
                ahead.step()
        if count == 0:
            path.unlink()
            return None
        state = _State(name, f"winnow-{name}", self.client.model, self.client.base_url, count, bound)
        self._write(state)
        return state

    def _submitted(self, state: _State) -> _State:
        """The state with a job: the one that was asked for before, or a new one."""
        if state.batch is None and state.file is not None:
            state = replace(state, batch=self._created_before(state))
        if state.batch is not None:
            return state
        if state.file is None:
            upload = self.folder / f"{state.name}.jsonl"
            sent = self._json(
                "POST", "files", body={"purpose": "batch"}, upload=upload, seconds=UPLOAD_SECONDS
            )
            state = replace(state, file=_name(sent))
            self._write(state)
            killpoints.reach("batch uploaded")
        state = replace(state, batch=self._created(state))
        killpoints.reach("batch created")
        self._write(state)
        return state

    def _created(self, state: _State) -> str:
        """A new job. Not repeated blindly: one whose answer was lost may exist, and be paid for twice."""
        job = {
            "input_file_id": state.file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"tag": state.tag},
        }
        for attempt in itertools.count():
            try:
                return _name(self._json("POST", "batches", body=job, retries=0))
            except ChatFailure:
                if attempt >= self.client.retries:
                    raise
            time.sleep(backoff(attempt))
            if (before := self._created_before(state)) is not None:
                return before
        raise AssertionError("the attempts are counted without an end")

    def _created_before(self, state: _State) -> str | None:
        """The job that a run asked for before it was killed, if the server lists one with its tag."""
        listed = self._json("GET", "batches?limit=100").get("data")
        for job in listed if isinstance(listed, list) else []:
            if isinstance(job, dict) and (job.get("metadata") or {}).get("tag") == state.tag:
                return _name(job)
        return None

    # --------------------------------------------------------------------------------------- on the way back

    def _finish_all(self, states: list[_State], keep: Keep, reserved: contextlib.ExitStack) -> None:
        """Wait for batches and keep their answers; what was reserved for them is free again."""
        while states:
            self._finish(states[0], keep)
            del states[0]
        reserved.close()

    def _finish(self, state: _State, keep: Keep) -> None:
        job = self._ended(state)
        counts = [self._import(job.get(file), state, keep) for file in ("output_file_id", "error_file_id")]
        answered = sum(counts)
        detail = f", {state.requests - answered:,} without" if answered < state.requests else ""
        self.say(
            f"{state.model}: batch {state.batch} {job['status']}: {answered:,} of {state.requests:,} "
            f"requests answered{detail}"
        )
        self._write(replace(state, done=True))
        (self.folder / f"{state.name}.jsonl").unlink(missing_ok=True)
        if job["status"] == "failed":
            raise ChatSetupError(f"the batch {state.batch} failed: {_why(job)}", "model")

    def _ended(self, state: _State) -> dict[str, Any]:
        """The job, once it has ended. A question for it that fails is asked again. Raises BatchLate."""
        end, said = time.monotonic() + 3600 * self.options.hours, None
        while True:
            try:
                job = self._json("GET", f"batches/{state.batch}")
            except ChatFailure as failure:
                job = {"status": f"unknown ({failure.reason})"}
            except ChatSetupError as error:
                if error.about != "model":
                    raise
                return {"status": "unknown to the service"}  # deleted there: its requests are asked again
            if job.get("status") in ENDED:
                return job
            if time.monotonic() + self.options.poll > end:
                raise BatchLate(
                    f"the batch {state.batch} has not ended within {self.options.hours:g} hours: it is "
                    f"{printable(str(job.get('status')))}; the same command goes on waiting for it"
                )
            if (now := _progress(job)) != said:
                self.say(f"{state.model}: batch {state.batch}: {now}")
                said = now
            time.sleep(self.options.poll)

    def _import(self, file: Any, state: _State, keep: Keep) -> int:
        """Keep the answers in a file of the service, and count them; returns their number."""
        if not isinstance(file, str):
            return 0
        bounds, answered = dict(self._bounds(state)), 0
        each = max((longest_answer(bound[1], False) for bound in bounds.values()), default=0) + LINE_BYTES
        most = min(each * (state.requests + 1), 1 << 30)
        content = self.client.call("GET", f"files/{file}/content", seconds=UPLOAD_SECONDS, max_bytes=most)
        for line in content.splitlines():
            key, body = _answer(line)
            # popped: a second answer to a request would be paid for and kept twice
            if len(line) > each or body is None or (bound := bounds.pop(key, None)) is None:
                continue
            reply, usage = read_completion(body, bound)
            self.client.purse.answered(usage or bound, self.options.price)
            if reply is not None:
                keep(key, reply)
                answered += 1
        return answered

    def _bounds(self, state: _State) -> Iterator[tuple[str, Tokens]]:
        """Key and upper bound of the tokens of each request of a batch, from the file of requests."""
        with (self.folder / f"{state.name}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                request = json.loads(line)
                body = request["body"]
                bound = input_bound(body["messages"], self.client.image_tokens)
                # by the name that it had when it was sent
                most = next(body[field] for field in TOKEN_FIELDS if field in body)
                yield request["custom_id"], (bound, int(most))

    # --------------------------------------------------------------------------------------- on disk

    def _left(self) -> list[_State]:
        """The batches of this model at this address that are not finished, from their files."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                state = _State(**{**content, "bound": tuple(content["bound"])})
            except (ValueError, TypeError, KeyError):
                self.say(f"{path} is damaged and left aside: its batch, if there is one, is not waited for")
                continue
            own = (state.model, state.base_url) == (self.client.model, self.client.base_url)
            if own and not state.done and (self.folder / f"{state.name}.jsonl").is_file():
                found.append(state)
        return found

    def _write(self, state: _State) -> None:
        atomic.write_text(self.folder / f"{state.name}.json", json.dumps(asdict(state)))

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON object in an answer of the service. Raises ChatFailure."""
        body = self.client.call(method, path, **options)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ChatFailure("malformed", f"{method} {path} was answered with no JSON") from error
        if not isinstance(content, dict):
            raise ChatFailure("malformed", f"{method} {path} was answered with no JSON object")
        return content

    def _too_dear(self, request: BatchRequest) -> str:
        usd, cost = self.client.purse.usd(request.bound, self.options.price), self.client.cost()
        return (
            f"${cost.usd:.4f} of ${self.client.purse.cap} are spent on {cost.requests} requests to "
            f"{self.client.model}, and the next might cost ${usd:.4f}: raise max_cost_usd to go on"
        )


class _Ahead:
    """An iterator of which the next element is known."""

    def __init__(self, requests: Iterator[BatchRequest]) -> None:
        self.requests = requests
        self.next: BatchRequest | None = next(requests, None)

    def step(self) -> None:
        self.next = next(self.requests, None)


def _name(answer: dict[str, Any]) -> str:
    """The id of a file or a job. It becomes part of an address, so nothing but a plain name is accepted."""
    name = answer.get("id")
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum() or len(name) > 200:
        raise ChatFailure("malformed", "the service names no valid id")
    return name


def _answer(line: bytes) -> tuple[str, str | None]:
    """(custom_id, the completion as JSON or None if the request has none) of a line of answers."""
    try:
        content = json.loads(line)
        response = content.get("response") or {}
        body = json.dumps(response["body"]) if response.get("status_code") == 200 else None
        return str(content["custom_id"]), body
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return "", None


def _progress(job: dict[str, Any]) -> str:
    counts = job.get("request_counts")
    done = f", {counts.get('completed')} of {counts.get('total')} done" if isinstance(counts, dict) else ""
    return printable(f"{job.get('status')}{done}")


def _why(job: dict[str, Any]) -> str:
    """The first problem that the service names."""
    try:
        return printable(str(job["errors"]["data"][0]["message"]))
    except (LookupError, TypeError):
        return "the service does not say why"
