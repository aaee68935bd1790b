"""Evaluation directories as `evaluate` writes them, and a small folder of mini benchmarks."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from evaluation.aggregate import compare
from evaluation.comparison import Comparison
from evaluation.experiment import Experiment
from evaluation.long_form import long_form
from evaluation.results import Leaked, Run
from evaluation.suite import Benchmark, Suite, load_suite

QUESTIONS = [
    ("choice", "Which one? a) cat b) dog c) sun", ["cat", "dog", "sun"], "b"),
    ("word", "What is it?", [], "dog"),
    ("number", "How many?", [], "3"),
    ("yes_no", "Is there a dog?", [], "no"),
    ("coordinate", "Where is the dog?", [], "b3"),
    ("spell", "Read the letters.", [], "c a t"),
    ("facts", "Describe the grid.", [], "a1 dog ; b2 cat"),
]
"""One question of each kind: (kind, question, options, answer)."""
CAPABILITIES = [b.capability for b in load_suite("mini")]
"""The mini benchmarks, by the names of their data files."""


def bench(name: str, label: str, capability: str | None = None, **fields) -> Benchmark:
    """A benchmark with one task of the same name, whose data are never read."""
    data = {"data": {"file": f"{name}.parquet"}, "extractor": {"kind": "short"}, "tasks": [name]}
    return Benchmark(**{"name": name, "label": label, "capability": capability, **data, **fields})


def toy_suite(*benchmarks: Benchmark) -> Suite:
    """A suite of these benchmarks."""
    return Suite(name="toy", tasks="mini", benchmarks=benchmarks)


TOY = toy_suite(bench("t1", "One", "spatial"), bench("t2", "Two", "ocr"))


def png(seed: int, size: int = 64) -> bytes:
    """A small noise image, different for each seed."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def write_bench(folder: Path, per_kind: int = 2) -> Path:
    """All mini benchmarks with `per_kind` questions of every kind in each."""
    folder.mkdir(parents=True, exist_ok=True)
    for c, key in enumerate(CAPABILITIES):
        items = [(i, *QUESTIONS[i % len(QUESTIONS)]) for i in range(per_kind * len(QUESTIONS))]
        columns = {
            "index": pa.array([i for i, *_ in items], pa.int32()),
            "id": [f"{key}-{i}" for i, *_ in items],
            "image": pa.array(
                [{"bytes": png(100 * c + i), "path": None} for i, *_ in items],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "question": [question for _, _, question, _, _ in items],
            "options": pa.array([options for *_, options, _ in items], pa.list_(pa.string())),
            "answer": [answer for *_, answer in items],
            "kind": [kind for _, kind, *_ in items],
            "capability": [key] * len(items),
            "style": ["word"] * len(items),
            "chance": [1 / 3 if kind == "choice" else 0.0 for _, kind, *_ in items],
        }
        pq.write_table(pa.table(columns), folder / f"{key}.parquet")
    (folder / "bench.json").write_text(
        json.dumps({key: {"n": len(items), "chance": 1 / 21, "blind": 0.1} for key in CAPABILITIES})
    )
    return folder


def write_evaluation(
    folder: Path,
    scores: dict[str, np.ndarray],
    protocol: dict | None = None,
    ids: str = "q",
    shuffled: dict[str, np.ndarray | None] | None = None,
) -> Path:
    """summary.json and scores.parquet for given scores of each task; `shuffled`: those with other images."""
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = shuffled or {}
    parts = [
        pa.table(
            {
                "benchmark": [task] * len(values),
                "task": [task] * len(values),
                "index": pa.array(range(len(values)), pa.int32()),
                "id": [f"{ids}{i}" for i in range(len(values))],
                "unit": [str(i) for i in range(len(values))],
                "stratum": [""] * len(values),
                "weight": np.full(len(values), 1 / len(values)),
                "prediction": ["x"] * len(values),
                "extracted": ["x"] * len(values),
                "item_score": np.asarray(values, float),
                "score": np.asarray(values, float),
                "lenient": np.asarray(values, float),
                "unparsed": [False] * len(values),
                "truncated": [False] * len(values),
                "score_shuffled": pa.array(
                    [None] * len(values) if shuffled.get(task) is None else shuffled[task], pa.float64()
                ),
            }
        )
        for task, values in scores.items()
    ]
    pq.write_table(pa.concat_tables(parts), folder / "scores.parquet")
    means = {task: None if values is None else float(np.mean(values)) for task, values in shuffled.items()}
    benchmarks = {
        task: {
            "value": float(np.mean(v)),
            "n": len(v),
            "units": len(v),
            "stderr": 0.01,
            "chance": 0.25,
            "unparsed": 1,
            "truncated": 0,
            "lenient": float(np.mean(v)),
            "shuffled": means.get(task),
        }
        for task, v in scores.items()
    }
    summary = {
        "benchmarks": benchmarks,
        "protocol": protocol or {"suite": "toy", "batch_size": 8},
        "checkpoint": folder.name,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def compared(runs: Sequence[Run], suite: Suite, **roles: Any) -> Comparison:
    """The comparison of these evaluations; `roles` as of `Experiment.of_runs`."""
    return compare(Experiment.of_runs(runs, suite, **roles))


def collected(runs: Sequence[Run], suite: Suite, leaked: Leaked | None = None) -> pa.Table:
    """Their long-form results."""
    return long_form(Experiment.of_runs(runs, suite, leaked=leaked))
