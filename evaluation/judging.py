"""The second stage of an evaluation: the judged benchmarks of a suite, from kept answers to verdicts.

    server = JudgeServer.preset("vllm", "Qwen/Qwen2.5-32B-Instruct")
    judged = judge_suite(opened, [Path("eval/answers")], server, Path("eval/judgements"))

Only this stage uses a network. A benchmark whose judge fails has no verdicts at all, and says why.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation import atomic
from curation.teacher.chat import ChatClient, ChatSetupError
from evaluation.answering import Progress
from evaluation.judge import JudgeFailed, JudgeServer, Request, judge, protocol, requests_of
from evaluation.judge_prompt import prompt_of
from evaluation.kept import Identity, own_answers
from evaluation.opened import Opened
from evaluation.suite import Benchmark

Judged = dict[str, Any]
"""Of one benchmark: `verdicts` {part: {index: grade or text}}, `cost`, `models`, `protocol`; or `missing`."""
FILE = "judgements.json"


def judge_suite(
    opened: Opened,
    folders: Sequence[Path],
    server: JudgeServer | None,
    out: Path,
    *,
    about: Identity | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Judged]:
    """Verdicts on the answers in `folders`, for each benchmark that needs a judge; kept replies are in `out`.

    One cost cap holds for all of them. Raises PromptError, EvaluationError (missing answers).
    """
    judged = [benchmark for benchmark in opened.suite if benchmark.judge]
    if server is None or not judged:
        return {}
    try:
        client = server.client()  # shared, so that one cost cap holds for all benchmarks
    except ChatSetupError as error:
        return {b.name: {"missing": f"{b.name}: the judge cannot be asked: {error}"} for b in judged}
    result = {}
    for benchmark in judged:
        requests = {
            questions.name: _requests(opened, benchmark, at, folders, about)
            for at, questions in enumerate(opened.parts[benchmark.name])
        }
        result[benchmark.name] = _verdicts(benchmark, requests, server, client, out, on_progress)
    return result


def _requests(
    opened: Opened, benchmark: Benchmark, at: int, folders: Sequence[Path], about: Identity | None
) -> list[Request]:
    questions = opened.parts[benchmark.name][at]
    _, answers = own_answers(folders, opened.part(questions), about)
    assert benchmark.judge is not None
    texts = {index: answer.text for index, answer in answers.items()}
    docs = dict(enumerate(questions.docs))
    return requests_of(benchmark.judge, benchmark.name, questions.name, docs, texts)


def _verdicts(
    benchmark: Benchmark,
    requests: Mapping[str, Sequence[Request]],
    server: JudgeServer,
    client: ChatClient,
    out: Path,
    on_progress: Progress | None,
) -> Judged:
    assert benchmark.judge is not None
    prompt = prompt_of(benchmark.judge)
    about = {"protocol": protocol(prompt, server)}
    try:
        everything = [request for own in requests.values() for request in own]
        found = judge(everything, prompt, server, out, client=client, on_progress=on_progress)
    except JudgeFailed as failure:
        return {**about, "missing": failure.why, "advice": str(failure), "cost": failure.cost}
    values = iter(found.values)
    verdicts = {name: {r.index: next(values) for r in own} for name, own in requests.items()}
    return {**about, "verdicts": verdicts, "cost": found.cost, "models": list(found.models)}


def write_judgements(judged: Mapping[str, Judged], out: Path) -> None:
    """Write judgements.json."""
    atomic.write_json(out / FILE, dict(judged))


def read_judgements(folder: Path) -> dict[str, Judged]:
    """What `write_judgements` wrote."""
    judged = json.loads((folder / FILE).read_text(encoding="utf-8"))
    for entry in judged.values():
        entry["verdicts"] = {
            part: {int(index): value for index, value in own.items()}
            for part, own in entry.get("verdicts", {}).items()
        }
    return judged
