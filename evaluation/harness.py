"""Evaluate one checkpoint on a suite, in one process, with lmms-eval as a library.

    summary = evaluate(Path("runs/sft"), suite="mini", bench_dir=Path("bench"), out=Path("eval/sft"))

Writes `scores.parquet` (benchmark, index, id, prediction, extracted, score, unparsed, score_shuffled: one row
for each question) and `summary.json` (value, n, standard error, chance, unparsed, shuffled of each benchmark;
protocol; checkpoint hash), the latter last. `score_shuffled` is the score with the image of another question
(evaluation/shuffled.py), null where that was not asked. Both are the same bytes for the same checkpoint, data
and code: no time stamps, no paths.
"""

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from evaluation import answer_text, extract
from evaluation.stats import mean, stderr
from evaluation.suite import Benchmark, Suite, load_suite
from evaluation.tasks import folder_of

if TYPE_CHECKING:
    from lmms_eval.api.model import lmms

SCORES_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("index", pa.int32()),
        ("id", pa.string()),
        ("prediction", pa.string()),
        ("extracted", pa.string()),
        ("score", pa.float64()),
        ("unparsed", pa.bool_()),
        ("score_shuffled", pa.float64()),
    ]
)
Progress = Callable[[int, int], None]


class EvaluationError(RuntimeError):
    """An evaluation that cannot run or whose results are not what the suite asks for."""


def evaluate(
    checkpoint: Path,
    suite: str | Path | Suite = "mini",
    *,
    bench_dir: Path,
    out: Path,
    tasks: Sequence[str] | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    shuffled: bool = False,
    device: str | None = None,
    dtype: str = "float32",
    on_progress: Progress | None = None,
    model: "lmms | None" = None,
) -> dict[str, Any]:
    """Answer and score all questions of the suite (or of its `tasks`, or the first `limit` of each); returns
    the summary.

    `shuffled` asks everything once more with the images of other questions, in a pass of its own: the answers
    to the right images are the same with and without it. Answers are journalled to `out/answers.jsonl` while
    they are made; a second call after a crash continues from there. `on_progress(done, total)` counts
    questions of all passes. `model` replaces the checkpoint's own model (tests). Raises EvaluationError when
    lmms-eval or benchmark data are missing; an error inside the model is raised as it is.
    """
    suite = _chosen(suite if isinstance(suite, Suite) else load_suite(suite), tasks)
    files = _bench_files(Path(bench_dir), suite)
    for benchmark in suite:
        _check_references(benchmark, files[benchmark.task])
    evaluator = _lmms_eval()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    journal = out / "answers.jsonl"
    count = _over_passes(on_progress, 1 + shuffled) if on_progress else None
    model = model or _own_model(checkpoint, batch_size, device, dtype, journal, count)
    with (
        tempfile.TemporaryDirectory(prefix="winnow-eval-") as scratch,
        _quiet(),
        _environment(LMMS_EVAL_DATASETS_CACHE=scratch),
    ):
        manager = _task_manager(suite, Path(bench_dir), Path(scratch))
        ask = partial(_ask, evaluator, suite, manager, Path(scratch), batch_size, limit)
        samples = ask(model)
        others = _ask_shuffled(ask, model) if shuffled else {}
    rows = [row for b in suite for row in _rows(b, samples[b.task], others.get(b.task, ()))]
    scores = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
    chance = {b.task: mean([sample["doc"]["chance"] for sample in samples[b.task]]) for b in suite}
    summary = {
        "benchmarks": {b.task: _entry(b, scores, chance[b.task], files[b.task], limit) for b in suite},
        "protocol": _protocol(suite, files, batch_size, limit, dtype),
        "checkpoint": getattr(model, "checkpoint", type(model).__name__),
    }
    _write(out, scores, summary)
    getattr(model, "journal", _NO_JOURNAL).close()
    journal.unlink(missing_ok=True)
    return summary


Samples = dict[str, list[dict[str, Any]]]
"""What lmms-eval logs of every question, by task."""


def _ask(
    evaluator: Any,
    suite: Suite,
    manager: Any,
    scratch: Path,
    batch_size: int,
    limit: int | None,
    model: "lmms",
) -> Samples:
    """One pass of lmms-eval over all questions."""
    # Without cli_args tasks write into the working directory; with several scoring threads the order of work
    # is not fixed.
    results = evaluator.simple_evaluate(
        model=model,
        tasks=[b.task for b in suite],
        task_manager=manager,
        batch_size=batch_size,
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
        process_docs_parallel=1,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
        cli_args=argparse.Namespace(
            process_with_media=False,
            output_path=str(scratch),
            reasoning_tags=None,
            agentic_trace_mode="basic",
        ),
    )
    return results["samples"]


def _ask_shuffled(ask: Callable[["lmms"], Samples], model: "lmms") -> Samples:
    """A pass with the images of other questions; tasks in which no question could be given another's are left
    out."""
    from evaluation.lmms_model import ShuffledImages

    other = ShuffledImages(model)
    return {task: samples for task, samples in ask(other).items() if task in other.shuffled}


def _over_passes(on_progress: Progress, passes: int) -> Progress:
    """A count for each of several passes over the same questions that goes on from pass to pass."""
    finished = 0

    def count(done: int, total: int) -> None:
        nonlocal finished
        on_progress(finished + done, passes * total)
        finished += total if done == total else 0

    return count


class _NoJournal:
    def close(self) -> None: ...


_NO_JOURNAL = _NoJournal()


def _chosen(suite: Suite, tasks: Sequence[str] | None) -> Suite:
    if tasks is None:
        return suite
    known = {b.task: b for b in suite}
    if unknown := [task for task in tasks if task not in known]:
        raise EvaluationError(
            f"suite {suite.name!r} has no task {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return Suite(suite.name, suite.tasks, tuple(known[task] for task in tasks))


def _bench_files(bench_dir: Path, suite: Suite) -> dict[str, Path]:
    files = {b.task: bench_dir / f"{b.capability}.parquet" for b in suite}
    if missing := [str(path) for path in files.values() if not path.is_file()]:
        raise EvaluationError(f"benchmark data are missing: {', '.join(missing)}")
    return files


def _check_references(benchmark: Benchmark, file: Path) -> None:
    """EvaluationError for a reference answer that cannot be read, before anything is spent on the model."""
    for row in pq.read_table(file, columns=["id", "kind", "answer", "options"]).to_pylist():
        try:
            extract.score(row["kind"], row["answer"], row["answer"], row["options"] or ())
        except ValueError as error:
            raise EvaluationError(f"{file}, question {row['id']!r}: {error}") from error


def _lmms_eval() -> Any:
    try:
        from lmms_eval import evaluator
    except ImportError as error:
        raise EvaluationError(f"evaluation needs lmms-eval ({error}): pip install 'winnow[eval]'") from error
    return evaluator


def _own_model(
    checkpoint: Path,
    batch_size: int,
    device: str | None,
    dtype: str,
    journal: Path,
    on_progress: Progress | None,
) -> "lmms":
    from evaluation.lmms_model import WinnowModel

    return WinnowModel(
        checkpoint,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        journal=journal,
        on_progress=on_progress,
    )


def _task_manager(suite: Suite, bench_dir: Path, cache_dir: Path) -> Any:
    """Our tasks only, their `data_files` found in `bench_dir`, Arrow copies in `cache_dir` (private: nothing
    to lock or share)."""
    from lmms_eval.tasks import TaskManager

    class BenchTaskManager(TaskManager):
        def _get_config(self, name: str) -> dict[str, Any]:
            config = super()._get_config(name)
            files = config["dataset_kwargs"]["data_files"]
            files = {split: str((bench_dir / Path(file).name).resolve()) for split, file in files.items()}
            return config | {"dataset_kwargs": {"data_files": files, "cache_dir": str(cache_dir)}}

    return BenchTaskManager("ERROR", include_path=str(folder_of(suite.tasks)), include_defaults=False)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables inside the block; lmms-eval would otherwise create its cache folder in the user's
    home."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or log lines of lmms-eval and datasets inside the block: thousands of lines that say
    nothing."""
    import datasets
    from loguru import logger
    from tqdm import tqdm

    shown, make = not datasets.are_progress_bars_disabled(), tqdm.__init__
    tqdm.__init__ = lambda self, *args, **options: make(self, *args, **options | {"disable": True})
    datasets.disable_progress_bars()
    logger.disable("lmms_eval")
    try:
        yield
    finally:
        tqdm.__init__ = make
        logger.enable("lmms_eval")
        if shown:
            datasets.enable_progress_bars()


def _rows(
    benchmark: Benchmark, samples: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each question, in document order whatever the order in which ranks delivered them; `others`
    are the samples of the pass with shuffled images, if there was one."""
    rows, shuffled = [], {sample["doc_id"]: float(sample[benchmark.metric]) for sample in others}
    for sample in sorted(samples, key=lambda s: s["doc_id"]):
        doc, prediction = sample["doc"], sample["filtered_resps"][0]
        found = extract.extract(doc["kind"], prediction, doc["options"] or ())
        rows.append(
            {
                "benchmark": benchmark.task,
                "index": doc["index"],
                "id": doc["id"],
                "prediction": prediction,
                "extracted": found,
                "score": float(sample[benchmark.metric]),
                "unparsed": found is None,
                "score_shuffled": shuffled.get(sample["doc_id"]),
            }
        )
    return rows


def _entry(
    benchmark: Benchmark, scores: pa.Table, chance: float, file: Path, limit: int | None
) -> dict[str, Any]:
    part = scores.filter(pa.array([name == benchmark.task for name in scores["benchmark"].to_pylist()]))
    expected = min(pq.read_metadata(file).num_rows, limit or 2**31)
    if len(part) != expected or part["index"].null_count or len(set(part["index"].to_pylist())) < len(part):
        raise EvaluationError(f"{benchmark.task}: {len(part)} answers to {expected} questions of {file}")
    values, shuffled = part["score"].to_numpy(), part["score_shuffled"]
    if shuffled.null_count not in (0, len(part)):
        raise EvaluationError(
            f"{benchmark.task}: {shuffled.null_count} questions without an answer to a shuffled image"
        )
    return {
        "value": mean(values),
        "n": len(part),
        "stderr": stderr(values) if len(part) > 1 else None,
        "chance": benchmark.chance if benchmark.chance is not None else chance,
        "unparsed": sum(part["unparsed"].to_pylist()),
        "shuffled": None if shuffled.null_count else mean(shuffled),
    }


def _protocol(
    suite: Suite, files: dict[str, Path], batch_size: int, limit: int | None, dtype: str
) -> dict[str, Any]:
    """What must be equal for two evaluations to be comparable."""
    folder = folder_of(suite.tasks)
    code = (
        [folder / f"{b.task}.yaml" for b in suite]
        + sorted(folder.glob("_*.yaml"))
        + sorted(folder.glob("*.py"))
    )
    code += [Path(extract.__file__), Path(answer_text.__file__)]
    return {
        "suite": suite.name,
        "tasks": _digest(code),
        "data": _digest(files.values()),
        "lmms_eval": version("lmms-eval"),
        "batch_size": batch_size,
        "limit": limit,
        "dtype": dtype,
    }


def _digest(files: Any) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).name.encode() + b"\0" + hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _write(out: Path, scores: pa.Table, summary: dict[str, Any]) -> None:
    """Both files under their names only when whole; the summary last, as it says that the evaluation is
    finished."""
    with atomic.replacing(out / "scores.parquet") as temporary:
        pq.write_table(scores, temporary)
    atomic.write_text(out / "summary.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
