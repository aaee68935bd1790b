"""All results of an experiment as a long-form table (results.parquet of a comparison)."""

import math
from typing import Any

import pyarrow as pa

from evaluation.aggregate import counted
from evaluation.experiment import Experiment
from evaluation.results import protocol_hash

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


def long_form(experiment: Experiment) -> pa.Table:
    """One row per run, benchmark and metric.

    The metrics are the benchmark's own, `<metric>_lenient` (the uniform reading of answers),
    `<metric>_shuffled` if it was evaluated with shuffled images, unparsed_rate and truncated_rate; of a
    benchmark with leaked questions also `<metric>_without_leaks`, whose n counts the others.
    """
    budgets = {arm.name: arm.budget for arm in experiment.arms}
    protocol = protocol_hash(experiment.protocol)
    others = counted(experiment, leaks=False)
    rows: list[dict[str, Any]] = []
    for at, run in enumerate(experiment.runs):
        identity = {
            "arm": run.arm,
            "budget": budgets[run.arm],
            "pool_seed": run.pool_seed,
            "selection_seed": run.selection_seed,
            "train_seed": run.train_seed,
            "protocol": protocol,
            "checkpoint": run.checkpoint,
        }
        for benchmark in experiment.suite:
            entry, metric = run.benchmarks[benchmark.name], benchmark.official
            n = entry["n"]
            measured = {metric: (entry["value"], entry["stderr"], n)}
            for reading in ("lenient", "shuffled"):
                if entry[reading] is not None:
                    measured[f"{metric}_{reading}"] = (entry[reading], None, n)
            for count in ("unparsed", "truncated"):
                rate = entry[count] / n
                measured[f"{count}_rate"] = (rate, math.sqrt(rate * (1 - rate) / n), n)
            left = others.get(benchmark.name)
            if left and left.questions < n:
                value = float(left.scores(experiment.scores[at]).mean())
                measured[f"{metric}_without_leaks"] = (value, None, left.questions)
            rows += [
                identity
                | {"benchmark": benchmark.name, "metric": name, "value": value, "n": count, "stderr": error}
                for name, (value, error, count) in measured.items()
            ]
    return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)
