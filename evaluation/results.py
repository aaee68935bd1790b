"""Reads and checks what evaluations wrote: runs, their summaries, their per-question scores.

Nothing is imputed: a missing benchmark, different questions or a different protocol is an error that names
the directory.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.score import unit_table, without_questions
from evaluation.suite import Benchmark, Suite

RESULT_SCHEMA = pa.schema(
    [
        ("arm", pa.string()),
        ("budget", pa.string()),
        ("pool_seed", pa.int64()),
        ("selection_seed", pa.int64()),
        ("train_seed", pa.int64()),
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("stderr", pa.float64()),
        ("protocol", pa.string()),
        ("checkpoint", pa.string()),
    ]
)
Leaked = Mapping[str, Collection[str]]
"""Benchmark -> ids of its questions that samples of a pool repeat."""


class ResultsError(ValueError):
    """Evaluations that cannot be compared: missing benchmark, other questions or protocol, damaged files."""


@dataclass(frozen=True)
class Run:
    """One trained checkpoint of an arm, and the directory of its evaluation.

    `budget` is printed as it is, such as "30%". `pool_seed` is None for a pool that the user supplied.
    `targeted`: the selector saw validation data of the benchmarks.
    """

    arm: str
    selection_seed: int
    train_seed: int
    budget: str
    path: Path
    pool_seed: int | None = None
    targeted: bool = False


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of one evaluation; ResultsError if it does not exist or is damaged."""
    try:
        return json.loads((Path(path) / "summary.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ResultsError(
            f"{path}: no readable summary.json ({error}); evaluate this checkpoint again"
        ) from error


def collect(runs: Sequence[Run], suite: Suite, leaked: Leaked | None = None) -> pa.Table:
    """Long-form results: one row per run, benchmark and metric. ResultsError for a missing benchmark.

    The metrics are the benchmark's own, `<metric>_lenient` (the uniform reading of answers),
    `<metric>_shuffled` if it was evaluated with shuffled images, unparsed_rate and truncated_rate; of a
    benchmark with `leaked` questions also `<metric>_without_leaks`, whose n counts the others.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        summary = read_summary(run.path)
        identity = {
            "arm": run.arm,
            "budget": str(run.budget),
            "pool_seed": run.pool_seed,
            "selection_seed": run.selection_seed,
            "train_seed": run.train_seed,
            "protocol": protocol_hash(summary["protocol"]),
            "checkpoint": summary["checkpoint"],
        }
        judged = suite.judged(summary["protocol"].get("not_judged", ()))
        left = read_scores(run, judged, leaked) if leaked else {}
        for benchmark in judged:
            entry = _entry(run, summary, benchmark)
            n, metric = entry["n"], benchmark.official
            measured = {metric: (entry["value"], entry["stderr"], n)}
            for reading in ("lenient", "shuffled"):
                if entry[reading] is not None:
                    measured[f"{metric}_{reading}"] = (entry[reading], None, n)
            for count in ("unparsed", "truncated"):
                rate = entry[count] / n
                measured[f"{count}_rate"] = (rate, math.sqrt(rate * (1 - rate) / n), n)
            if leaked and leaked.get(benchmark.name) and len(others := left[benchmark.name]):
                value = pc.mean(others["score"]).as_py()
                measured[f"{metric}_without_leaks"] = (value, None, pc.sum(others["questions"]).as_py())
            rows += [
                identity
                | {"benchmark": benchmark.name, "metric": name, "value": value, "n": count, "stderr": error}
                for name, (value, error, count) in measured.items()
            ]
    return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """Twelve hex digits that are equal for equal protocols."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def _entry(run: Run, summary: Mapping[str, Any], benchmark: Benchmark) -> dict[str, Any]:
    """The summary's entry of one benchmark; ResultsError if it is missing, empty or not a number."""
    missing = (
        f"{run.path}: no result of benchmark {benchmark.name!r} for arm {run.arm!r} (seed {run.train_seed})"
    )
    entry = summary["benchmarks"].get(benchmark.name)
    if entry and "missing" in entry:
        raise ResultsError(f"{missing}: {entry['missing']}")
    if entry is None or entry["n"] == 0:
        raise ResultsError(f"{missing}; a mean over fewer benchmarks would not be comparable")
    if entry["value"] is None or not math.isfinite(entry["value"]):
        raise ResultsError(f"{missing}: its value is {entry['value']}")
    return entry


def read_scores(run: Run, suite: Suite, leaked: Leaked | None = None) -> dict[str, pa.Table]:
    """Per unit of each benchmark, in the order of the questions: id, stratum, score, lenient, score_shuffled.

    The three scores are float64, weight x score times the number of units: their means are the benchmark's
    values. `leaked`: these questions are left out, with the whole unit that they belong to. ResultsError if
    the scores are not the values of the summary.
    """
    summary = read_summary(run.path)
    columns = ["benchmark", "index", "id", "unit", "stratum", "weight", "score", "lenient", "score_shuffled"]
    try:
        table = pq.read_table(Path(run.path) / "scores.parquet", columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(
            f"{run.path}: no readable scores.parquet ({error}); evaluate this checkpoint again"
        ) from error
    scores = {}
    for benchmark in suite:
        entry = _entry(run, summary, benchmark)
        part = table.filter(pc.equal(table["benchmark"], benchmark.name)).sort_by("index")
        columns_of = {"value": "score", "lenient": "lenient", "shuffled": "score_shuffled"}
        agree = len(part) == entry["n"] and all(
            _has_sum(part, column, entry[key]) for key, column in columns_of.items()
        )
        if not agree:
            raise ResultsError(
                f"{run.path}: scores.parquet and summary.json disagree on {benchmark.name}; "
                "evaluate this checkpoint again"
            )
        scores[benchmark.name] = unit_table(without_questions(part, (leaked or {}).get(benchmark.name, ())))
    return scores


def _has_sum(part: pa.Table, name: str, value: float | None) -> bool:
    """Whether `value` is the sum of weight x score; None is that of scores that are all null."""
    column = part[name]
    if value is None or column.null_count:
        return value is None and column.null_count == len(column)
    total = math.fsum(w * s for w, s in zip(part["weight"].to_pylist(), column.to_pylist(), strict=True))
    return math.isclose(total, value, rel_tol=1e-9, abs_tol=1e-9)


def check_protocol(runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]]) -> None:
    """ResultsError unless all runs were evaluated under the same protocol."""
    first = summaries[0]["protocol"]
    for run, summary in zip(runs, summaries, strict=True):
        if summary["protocol"] != first:
            keys = sorted(
                k for k in {*first, *summary["protocol"]} if first.get(k) != summary["protocol"].get(k)
            )
            raise ResultsError(
                f"{run.path} and {runs[0].path} were evaluated under different protocols "
                f"({', '.join(keys)} differ)"
            )


def check_questions(runs: Sequence[Run], answers: Mapping[int, Mapping[str, pa.Table]]) -> None:
    """ResultsError unless all runs answered the same questions; `answers` is `read_scores` by `id(run)`."""
    for run in runs:
        for task, part in answers[id(run)].items():
            if not part["id"].equals(answers[id(runs[0])][task]["id"]):
                raise ResultsError(f"{run.path} and {runs[0].path} answered different questions of {task}")
