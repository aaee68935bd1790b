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

from evaluation.suite import Benchmark, Suite

Leaked = Mapping[str, Collection[str]]
"""Benchmark -> ids of its questions that samples of a pool repeat."""

QUESTION_COLUMNS = ("benchmark", "index", "id", "unit", "stratum", "weight")
"""Columns of scores.parquet that describe a question; equal in all runs that can be compared."""
SUMS = {"value": "score", "lenient": "lenient", "shuffled": "score_shuffled"}
"""Key of a benchmark's summary -> column whose sum of weight x score it is."""
MEANING = {
    "suite": "the suite",
    "entries": "what the suite says of its benchmarks",
    "tasks": "the tasks' prompts and scorers",
    "data": "the edition of the benchmarks' data",
}
"""What a key of the protocol stands for, where its name does not say it."""


class ResultsError(ValueError):
    """Evaluations that cannot be compared: missing benchmark, other questions or protocol, damaged files."""


@dataclass(frozen=True)
class Run:
    """One trained checkpoint of an arm, and the directory of its evaluation.

    `budget` is printed as it is, such as "30%". `pool_seed` is None for a pool that the user supplied.
    `targeted`: the selector saw validation data of the benchmarks. `selector`: the method. `control`: what
    the arm is a control for, empty for an arm under test; `control_of`: the only arm that it is one of.
    `anchor`: a level to read others by, about which nothing is claimed. `commit`: of the code that scored the
    answers.
    """

    arm: str
    selection_seed: int
    train_seed: int
    budget: str
    path: Path
    pool_seed: int | None = None
    targeted: bool = False
    selector: str = ""
    control: str = ""
    control_of: str = ""
    anchor: bool = False
    commit: str | None = None


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of one evaluation; ResultsError if it does not exist or is damaged."""
    try:
        return json.loads((Path(path) / "summary.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ResultsError(
            f"{path}: no readable summary.json ({error}); evaluate this checkpoint again"
        ) from error


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """Twelve hex digits that are equal for equal protocols."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]


def entry_of(run: Run, summary: Mapping[str, Any], benchmark: Benchmark) -> dict[str, Any]:
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


def read_rows(run: Run, summary: Mapping[str, Any], suite: Suite) -> pa.Table:
    """The questions of all benchmarks in the order of the suite: QUESTION_COLUMNS and the columns of SUMS.

    ResultsError if the scores are not the values of the summary.
    """
    columns = [*QUESTION_COLUMNS, *SUMS.values()]
    try:
        table = pq.read_table(Path(run.path) / "scores.parquet", columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(
            f"{run.path}: no readable scores.parquet ({error}); evaluate this checkpoint again"
        ) from error
    parts = []
    for benchmark in suite:
        entry = entry_of(run, summary, benchmark)
        part = table.filter(pc.equal(table["benchmark"], benchmark.name)).sort_by("index")
        sums_agree = all(_has_sum(part, column, entry[key]) for key, column in SUMS.items())
        if len(part) != entry["n"] or not sums_agree:
            raise ResultsError(
                f"{run.path}: scores.parquet and summary.json disagree on {benchmark.name}; "
                "evaluate this checkpoint again"
            )
        parts.append(part)
    return pa.concat_tables(parts).combine_chunks()


def _has_sum(part: pa.Table, name: str, value: float | None) -> bool:
    """Whether `value` is the sum of weight x score; None is that of scores that are all null."""
    column = part[name]
    if value is None or column.null_count:
        return value is None and column.null_count == len(column)
    total = math.fsum(w * s for w, s in zip(part["weight"].to_pylist(), column.to_pylist(), strict=True))
    return math.isclose(total, value, rel_tol=1e-9, abs_tol=1e-9)


def check_protocol(runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]]) -> None:
    """ResultsError unless all runs had the same protocol; it names both values of every key that differs."""
    first = summaries[0]["protocol"]
    for run, summary in zip(runs, summaries, strict=True):
        own = summary["protocol"]
        if keys := sorted(k for k in {*first, *own} if first.get(k) != own.get(k)):
            values = "; ".join(
                f"{MEANING.get(k, k)}: {_short(own.get(k))} and {_short(first.get(k))}" for k in keys
            )
            raise ResultsError(
                f"{run.path} and {runs[0].path} were evaluated under different protocols "
                f"({', '.join(keys)} differ). {values}. Evaluate both under one protocol, or compare "
                "each apart"
            )


def _short(value: Any) -> str:
    """A value of a protocol in at most 60 characters."""
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_questions(run: Run, rows: pa.Table, first_run: Run, first: pa.Table) -> None:
    """ResultsError unless two runs answered the same questions of every benchmark (`read_rows` of both)."""
    for name in pc.unique(first["benchmark"]).to_pylist():
        own, other = (table.filter(pc.equal(table["benchmark"], name)) for table in (rows, first))
        if len(own) != len(other):
            counts = f": {len(own)} and {len(other)}"
        elif not all(own[column].equals(other[column]) for column in QUESTION_COLUMNS):
            counts = ""
        else:
            continue
        raise ResultsError(
            f"{run.path} and {first_run.path} answered different questions of {name}{counts}; "
            "evaluate both on the same data with the same limit"
        )


def check_arms(runs: Sequence[Run]) -> None:
    """ResultsError for an arm with several budgets or twice the same seeds, or arms on different pools.

    Differences between arms of different pools would include the difference of these pools.
    """
    first = runs[0]
    pools: dict[str, set[int | None]] = {}
    seen: dict[tuple[Any, ...], Run] = {}
    budgets: dict[str, Run] = {}
    for run in runs:
        pools.setdefault(run.arm, set()).add(run.pool_seed)
        key = (run.arm, run.pool_seed, run.selection_seed, run.train_seed)
        if key in seen:
            where = "" if run.pool_seed is None else f" on pool {run.pool_seed}"
            raise ResultsError(
                f"arm {run.arm!r} has 2 runs with the same seeds{where}: {seen[key].path} and {run.path}"
            )
        seen[key] = run
        if str((other := budgets.setdefault(run.arm, run)).budget) != str(run.budget):
            both = sorted([str(other.budget), str(run.budget)])
            raise ResultsError(
                f"arm {run.arm!r} has runs of several budgets: {both}, in {other.path} and {run.path}"
            )
    for arm, own in pools.items():
        if own != pools[first.arm]:
            raise ResultsError(
                f"arms {first.arm!r} and {arm!r} were run on different pools: "
                f"{sorted(pools[first.arm], key=str)} and {sorted(own, key=str)}"
            )
