"""RDS+: queries take turns (one task), or tasks do by their highest cosine (several)."""

import numpy as np
import pyarrow as pa
from parity import Method, check_frozen, check_random, identified


def make(rng: np.random.Generator, rows: int) -> pa.Table:
    """Cosines on a coarse grid, so that there are ties, to the queries of two tasks."""
    cosines = {
        f"rds_{task}": pa.array((rng.integers(-8, 9, (rows, queries)) / 8.0).tolist(), pa.list_(pa.float32()))
        for task, queries in (("vqa", 4), ("ocr", 3), ("chart", 1))
    }
    return pa.table(
        {
            **identified(rng, rows),
            "source": ["a"] * rows,
            **cosines,
        }
    )


def _in_turn(rows, columns, budget):
    """`columns`: one function a taker, from a row to its value; each turn takes the next of a sorted list."""
    queues = [sorted(rows, key=lambda row, value=value: (-value(row), row["key"])) for value in columns]
    picks = []
    while len(picks) < budget:
        for queue in queues:
            best = queue.pop(0)["row"]
            if best not in picks and len(picks) < budget:
                picks.append(best)
    return picks


def oracle(rows, budget, params):
    """Rows in the order of the turns."""
    tasks = params["tasks"]
    if len(tasks) == 1:
        name = f"rds_{tasks[0]}"
        columns = [lambda row, at=at: row[name][at] for at in range(len(rows[0][name]))]
    else:
        columns = [lambda row, task=task: max(row[f"rds_{task}"]) for task in tasks]
    return _in_turn(rows, columns, budget)


METHOD = Method("rds", make, oracle, {"tasks": ["chart", "ocr", "vqa"]})
ONE_TASK = Method("rds", make, oracle, {"tasks": ["vqa"]})


def test_frozen():
    check_frozen(METHOD)


def test_random_for_several_tasks():
    check_random(METHOD)


def test_random_for_one_task():
    check_random(ONE_TASK)
