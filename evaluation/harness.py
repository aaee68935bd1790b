"""Evaluate one checkpoint on a suite: answers, judgements, scores.

    summary = evaluate(Path("runs/sft"), "mini", data=Path("bench"), out=Path("eval/sft"))

Writes `answers/` (kept: scoring again asks no model), `judgements/`, `scores.parquet` (one row per
question, see `evaluation.score.SCORES_SCHEMA`) and, last, `summary.json`: per benchmark value, n, stderr,
chance, unparsed, truncated, lenient, shuffled, or why it is missing; protocol; checkpoint. The same
checkpoint, data and code give the same bytes: there are no time stamps and no paths.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic, closure
from evaluation.answering import (
    CHUNK,
    AnswersOfPart,
    Part,
    Progress,
    Respondent,
    Settings,
    ask,
    shuffled_part,
)
from evaluation.judge import JudgeServer
from evaluation.judging import Judged, judge_suite
from evaluation.kept import Identity, own_answers, shuffled_answers
from evaluation.opened import Opened, open_suite
from evaluation.questions import EvaluationError
from evaluation.respondent import Checkpoint
from evaluation.score import SCORES_SCHEMA, Answered, score_benchmark
from evaluation.suite import Benchmark, Suite

NOT_JUDGED = "not judged"
"""The choice to leave the benchmarks that need a judge out of every arm's mean alike."""


def evaluate(
    checkpoint: Path,
    suite: str | Path | Suite = "mini",
    *,
    data: Path,
    out: Path,
    only: Sequence[str] | None = None,
    limit: int | None = None,
    shuffled: bool = False,
    settings: Settings | None = None,
    judge: JudgeServer | str | None = None,
    on_progress: Progress | None = None,
    model: Respondent | None = None,
) -> dict[str, Any]:
    """All three stages in one call. Returns the content of summary.json.

    `shuffled` asks everything once more with the images of other questions. `judge`: a JudgeServer, or
    "not judged". `on_progress(done, total)` counts questions over both passes. `model` replaces the
    checkpoint (for tests). A call after a crash continues from the answers that are there.
    """
    settings = settings or Settings()
    opened = open_suite(suite, data, only=only, limit=limit, not_judged=judge == NOT_JUDGED)
    server = judge if isinstance(judge, JudgeServer) else None
    refuse_unjudged(opened.suite, server)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    respondent = model or Checkpoint(checkpoint, settings)
    answer_suite(opened, respondent, out / "answers", data=data, shuffled=shuffled, on_progress=on_progress)
    about = respondent.identity
    judgements = judge_suite(opened, [out / "answers"], server, out / "judgements", about=about)
    return score_suite(opened, [out / "answers"], judgements, out, settings, about)


def refuse_unjudged(suite: Suite, judge: JudgeServer | None) -> None:
    """Raises EvaluationError if a benchmark needs a judge and none is given."""
    names = [benchmark.name for benchmark in suite if benchmark.judge]
    if names and judge is None:
        raise EvaluationError(
            f"suite {suite.name!r}: {', '.join(names)} need a judge: name one, or declare the judge "
            f"`{NOT_JUDGED}` to leave them out of every mean"
        )


# ------------------------------------------------------------------------------------------ answers


def all_parts(opened: Opened, shuffled: bool) -> list[Part]:
    """The parts to ask, first with their own images; a judged benchmark has no shuffled part."""
    own = [opened.part(questions) for b in opened.suite for questions in opened.parts[b.name]]
    others = [shuffled_part(part) for part in own if not part.questions.benchmark.judge] if shuffled else []
    return own + [part for part in others if part]


def answer_suite(
    opened: Opened,
    respondent: Respondent,
    folder: Path,
    *,
    data: Path,
    shuffled: bool = False,
    on_progress: Progress | None = None,
) -> list[AnswersOfPart]:
    """Ask for every answer that `folder` lacks and keep it there; returns all, by part.

    A checkpoint whose settings say so is asked in several processes, which open the suite on `data` again.
    """
    workers = None
    if isinstance(respondent, Checkpoint) and respondent.settings.workers > 1:
        from evaluation.placement import on_workers

        open_again = partial(_open_in_worker, opened.suite, data, opened.limit, shuffled, respondent)
        workers = on_workers(open_again, respondent.settings.workers)
    return ask(all_parts(opened, shuffled), respondent, folder, workers=workers, on_progress=on_progress)


def _open_in_worker(
    suite: Suite, data: Path, limit: int | None, shuffled: bool, respondent: Respondent
) -> tuple[list[Part], Respondent]:
    """What a worker process needs to answer units."""
    return all_parts(open_suite(suite, data, limit=limit), shuffled), respondent


# --------------------------------------------------------------------------------------------- scores


def score_suite(
    opened: Opened,
    folders: Sequence[Path],
    judgements: Mapping[str, Judged],
    out: Path,
    settings: Settings | None,
    about: Identity | None = None,
) -> dict[str, Any]:
    """Writes scores.parquet and summary.json from answers and judgements; returns the summary.

    `about`: whose answers, where `folders` may hold those of several respondents. `settings`: None if it is
    not known how they were asked (`evaluation.imported`).
    """
    tables: list[pa.Table] = []
    entries: dict[str, Any] = {}
    identity: Identity = {}
    for benchmark in opened.suite:
        if reason := judgements.get(benchmark.name, {}).get("missing"):
            entries[benchmark.name] = {"missing": reason}
            continue
        answered = []
        for questions in opened.parts[benchmark.name]:
            part = opened.part(questions)
            identity, own = own_answers(folders, part, about)
            other = shuffled_answers(folders, part, about)
            verdicts = judgements.get(benchmark.name, {}).get("verdicts", {}).get(questions.name, {})
            answered.append(Answered(questions, own, other, verdicts))
        table, entry = score_benchmark(benchmark, answered)
        entries[benchmark.name] = entry | {"expected": benchmark.expected}
        tables.append(table)
    entries |= {name: {"missing": NOT_JUDGED} for name in opened.not_judged}
    summary = {
        "benchmarks": entries,
        "protocol": _protocol(opened, identity, settings, judgements),
        "checkpoint": identity.get("checkpoint", ""),
        **({"imported_files": identity["files"]} if "files" in identity else {}),
    }
    scores = pa.concat_tables(tables) if tables else SCORES_SCHEMA.empty_table()
    _write(out, scores, summary)
    return summary


def _protocol(
    opened: Opened, about: Mapping[str, Any], settings: Settings | None, judgements: Mapping[str, Judged]
) -> dict[str, Any]:
    """Everything that must be equal for two evaluations to be comparable."""
    code = closure.code_hash("evaluation.lenient", "evaluation.units")
    judges = {name: j["protocol"] for name, j in sorted(judgements.items()) if "protocol" in j}
    deviations = {b.name: list(b.deviations) for b in opened.suite if b.deviations}
    return {
        "suite": opened.suite.name,
        "entries": _digest(_entry_text(benchmark) for benchmark in opened.suite),
        "tasks": _digest([code, *(f"{name} {task}" for name, (task, _) in opened.content.items())]),
        "data": _digest(f"{name} {data}" for name, (_, data) in opened.content.items()),
        "lmms_eval": version("lmms-eval"),
        "batch_size": settings.batch_size if settings else None,
        "max_batch_tokens": settings.max_batch_tokens if settings else None,
        "chunk": CHUNK if settings else None,
        "limit": opened.limit,
        "dtype": about.get("dtype"),
        "template": about.get("template"),
        "engine": about.get("engine"),
        **({"imported": about["imported"]} if "imported" in about else {}),
        **({"not_judged": list(opened.not_judged)} if opened.not_judged else {}),
        **({"judges": judges} if judges else {}),
        **({"deviations": deviations} if deviations else {}),
    }


UNMEASURED = {"label", "capability", "gpu_minutes", "deviations"}
"""Keys of a benchmark that change no value."""


def _entry_text(benchmark: Benchmark) -> str:
    """What a suite says of a benchmark, as far as it decides a value."""
    own = benchmark.model_dump(mode="json", exclude=UNMEASURED)
    own["data"] = {key: own["data"][key] for key in own["data"] if key not in ("licence", "megabytes")}
    return json.dumps(own, sort_keys=True)


def _digest(lines: Iterable[str]) -> str:
    """16 hex digits of these lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _write(out: Path, scores: pa.Table, summary: dict[str, Any]) -> None:
    """Write both files and rename them when complete; the summary last: it marks a finished evaluation."""
    with atomic.replacing(out / "scores.parquet") as temporary:
        pq.write_table(scores, temporary)
    atomic.write_text(out / "summary.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
