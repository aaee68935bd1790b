"""Evaluate one checkpoint on a suite, in one process, with lmms-eval as a library.

    summary = evaluate(Path("runs/sft"), suite="mini", bench_dir=Path("bench"), out=Path("eval/sft"))

Writes `scores.parquet` (one row per question: benchmark, index, id, prediction, extracted, score, unparsed,
score_shuffled) and, last, `summary.json` (per benchmark value, n, stderr, chance, unparsed, shuffled;
protocol; checkpoint hash). `score_shuffled` is the score with the image of another question
(evaluation/shuffled.py), null if not evaluated. The same checkpoint, data and code give the same bytes: there
are no time stamps and no paths.
"""

import argparse
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic, closure
from evaluation import extract
from evaluation.stats import mean, stderr
from evaluation.suite import Benchmark, Suite, load_suite
from evaluation.tasks import files_of

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
    """An evaluation that cannot run, or whose results do not match the suite."""


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
    """Answer and score all questions of the suite (or of its `tasks`, or the first `limit` of each).

    `shuffled` evaluates everything once more with the images of other questions, in a pass of its own, so
    that the answers to the right images do not depend on it. Answers are journalled to `out/answers.jsonl` as
    they are generated; a second call after a crash continues from there. `on_progress(done, total)` counts
    questions over all passes. `model` replaces the checkpoint's own model (for tests).
    Returns the content of summary.json. Raises EvaluationError if lmms-eval or benchmark data are missing; an
    error of the model is raised as it is.
    """
    suite = _chosen(suite if isinstance(suite, Suite) else load_suite(suite), tasks)
    evaluator = _lmms_eval()
    splits = {b.task: _data_file(suite, b, Path(bench_dir)) for b in suite}
    files = {task: file for task, (_, file) in splits.items()}
    if missing := [str(file) for file in files.values() if not file.is_file()]:
        raise EvaluationError(f"benchmark data are missing: {', '.join(missing)}")
    for benchmark in suite:
        _check_references(benchmark, files[benchmark.task])
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    journal = out / "answers.jsonl"
    count = _over_passes(on_progress, 1 + shuffled) if on_progress else None
    answering: Any = model or _own_model(checkpoint, batch_size, device, dtype, journal, count)
    with (
        tempfile.TemporaryDirectory(prefix="winnow-eval-") as scratch,
        _quiet(),
        _environment(LMMS_EVAL_DATASETS_CACHE=scratch),
    ):
        manager = _task_manager(suite, splits, Path(scratch))
        ask = partial(_ask, evaluator, suite, manager, Path(scratch), batch_size, limit)
        samples = ask(answering)
        control = _ask_shuffled(ask, answering) if shuffled else {}
    rows = [row for b in suite for row in _rows(b, samples[b.task], control.get(b.task, ()))]
    scores = pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)
    chance = {b.task: mean([sample["doc"]["chance"] for sample in samples[b.task]]) for b in suite}
    summary = {
        "benchmarks": {b.task: _entry(b, scores, chance[b.task], files[b.task], limit) for b in suite},
        "protocol": _protocol(suite, files, batch_size, limit, dtype),
        "checkpoint": getattr(answering, "checkpoint", type(answering).__name__),
    }
    _write(out, scores, summary)
    if hasattr(answering, "journal"):
        answering.journal.close()
    journal.unlink(missing_ok=True)  # only after summary.json: until then a crash needs it
    return summary


Samples = dict[str, list[dict[str, Any]]]
"""lmms-eval's log of every question, by task."""


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
    # Without cli_args, tasks write into the working directory. With several scoring threads, the order of the
    # work varies. Seeds are None, or lmms-eval would set the global random states of this process.
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
    """A pass with the images of other questions, without tasks in which no question could get another's."""
    from evaluation.lmms_model import ShuffledImages

    control = ShuffledImages(model)
    return {task: samples for task, samples in ask(control).items() if task in control.shuffled}


def _over_passes(on_progress: Progress, passes: int) -> Progress:
    """The progress callback of each pass, so that `on_progress` counts on over all passes."""
    finished = 0

    def count(done: int, total: int) -> None:
        nonlocal finished
        on_progress(finished + done, passes * total)
        finished += total if done == total else 0

    return count


def _chosen(suite: Suite, tasks: Sequence[str] | None) -> Suite:
    """The suite, reduced to `tasks` in their order; EvaluationError for an unknown task."""
    if tasks is None:
        return suite
    known = {b.task: b for b in suite}
    if unknown := [task for task in tasks if task not in known]:
        raise EvaluationError(
            f"suite {suite.name!r} has no task {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return Suite(suite.name, suite.tasks, tuple(known[task] for task in tasks))


def _check_references(benchmark: Benchmark, file: Path) -> None:
    """EvaluationError for a reference answer that cannot be parsed, before the model answers anything."""
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


def _data_file(suite: Suite, benchmark: Benchmark, bench_dir: Path) -> tuple[str, Path]:
    """The split that a task is evaluated on and its file in `bench_dir`, as the task's YAML names them."""
    from lmms_eval.utils import load_yaml_config

    path = suite.folder / f"{benchmark.task}.yaml"
    if not path.is_file():
        raise EvaluationError(f"suite {suite.name!r}: {path} does not exist")
    files = load_yaml_config(str(path), mode="simple").get("dataset_kwargs", {}).get("data_files", {})
    if len(files) != 1:
        raise EvaluationError(f"{path}: dataset_kwargs.data_files must name one file, got {files}")
    ((split, file),) = files.items()
    return split, bench_dir / Path(file).name


def _task_manager(suite: Suite, splits: Mapping[str, tuple[str, Path]], scratch: Path) -> Any:
    """A TaskManager with our tasks only, reading their data from these (split, file).

    Each task is a generated YAML that includes ours and sets the file's path and a private directory for its
    Arrow copy: nothing is locked or shared between processes, and no file depends on the working directory.
    """
    import yaml
    from lmms_eval.tasks import TaskManager

    folder = scratch / "tasks"
    folder.mkdir()
    for benchmark in suite:
        split, file = splits[benchmark.task]
        data = {split: str(file.resolve())}
        content = {
            "include": str(suite.folder / f"{benchmark.task}.yaml"),
            "task": benchmark.task,
            "dataset_kwargs": {"data_files": data, "cache_dir": str(scratch)},
        }
        (folder / f"{benchmark.task}.yaml").write_text(yaml.safe_dump(content))
    return TaskManager("ERROR", include_path=str(folder), include_defaults=False)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables inside the block."""
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
    """Disable progress bars and log lines of lmms-eval and datasets inside the block."""
    import datasets
    from loguru import logger

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    logger.disable("lmms_eval")
    try:
        with _without_bars(("lmms_eval.api.task", "lmms_eval.evaluator")):
            yield
    finally:
        logger.enable("lmms_eval")
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _without_bars(modules: Sequence[str]) -> Iterator[None]:
    """Replace the name `tqdm` in these modules by a disabled one inside the block.

    lmms-eval has no switch for its bars, tqdm reads TQDM_DISABLE only when it is first imported, and
    redirecting stderr would also hide warnings. A module that no longer has the name raises AttributeError,
    and a bar drawn elsewhere fails the test that nothing is printed.
    """
    from tqdm import tqdm

    loaded: list[Any] = [importlib.import_module(name) for name in modules]
    before = [module.tqdm for module in loaded]
    for module in loaded:
        module.tqdm = lambda *args, **options: tqdm(*args, **options | {"disable": True})
    try:
        yield
    finally:
        for module, original in zip(loaded, before, strict=True):
            module.tqdm = original


def _rows(
    benchmark: Benchmark, samples: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row per question in document order; `control`: samples of the pass with shuffled images, if any."""
    rows, shuffled = [], {sample["doc_id"]: float(sample[benchmark.metric]) for sample in control}
    for sample in sorted(samples, key=lambda s: s["doc_id"]):
        doc, prediction = sample["doc"], sample["filtered_resps"][0]
        extracted = extract.extract(doc["kind"], prediction, doc["options"] or ())
        rows.append(
            {
                "benchmark": benchmark.task,
                "index": doc["index"],
                "id": doc["id"],
                "prediction": prediction,
                "extracted": extracted,
                "score": float(sample[benchmark.metric]),
                "unparsed": extracted is None,
                "score_shuffled": shuffled.get(sample["doc_id"]),
            }
        )
    return rows


def _entry(
    benchmark: Benchmark, scores: pa.Table, chance: float, file: Path, limit: int | None
) -> dict[str, Any]:
    """The summary of one benchmark; EvaluationError unless every question has exactly one answer."""
    part = scores.filter(pa.array([name == benchmark.task for name in scores["benchmark"].to_pylist()]))
    expected = min(pq.read_metadata(file).num_rows, limit or 2**31)
    if len(part) != expected or part["index"].null_count or len(set(part["index"].to_pylist())) < len(part):
        raise EvaluationError(f"{benchmark.task}: {len(part)} answers to the {expected} questions of {file}")
    values, shuffled = part["score"].to_numpy(), part["score_shuffled"]
    if shuffled.null_count not in (0, len(part)):
        raise EvaluationError(
            f"{benchmark.task}: {shuffled.null_count} questions have no answer to a shuffled image"
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
    """Everything that must be equal for two evaluations to be comparable."""
    code = closure.code_hash("evaluation.extract", "evaluation.answer_text")
    tasks = files_of(suite.folder, [benchmark.task for benchmark in suite])
    return {
        "suite": suite.name,
        "tasks": _digest([code, *(f"{file.name} {_content(file)}" for file in tasks)]),
        "data": _digest(f"{file.name} {_content(file)}" for file in files.values()),
        "lmms_eval": version("lmms-eval"),
        "batch_size": batch_size,
        "limit": limit,
        "dtype": dtype,
    }


def _content(file: Path) -> str:
    """sha256 of a file; of Python files, of the code that they execute, so that prose changes no protocol."""
    return closure.file_hash(file) if file.suffix == ".py" else hashlib.sha256(file.read_bytes()).hexdigest()


def _digest(lines: Iterable[str]) -> str:
    """16 hex digits of these lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _write(out: Path, scores: pa.Table, summary: dict[str, Any]) -> None:
    """Write both files and rename them when complete; the summary last: it marks a finished evaluation."""
    with atomic.replacing(out / "scores.parquet") as temporary:
        pq.write_table(scores, temporary)
    atomic.write_text(out / "summary.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
