"""Ratings of a perfect scorer and styler: the mini world's ground truth as a signal.

An upper bound for selectors that read capability scores and styles; no real pool has it. The columns are
those of the learned signals together (cap_<key> int8; exp_<key>, ent_<key>, mass_<key> float32; styles
list<string>), so a selector can read it in their place: the expected score is the score, the entropy 0 and
the digit mass 1.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, OtherPoolError, Progress, write_signal
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.metadata import MetadataTeacher

if TYPE_CHECKING:
    from curation.pool.read import Pool


def tell_truth(
    pool: "Pool",
    truth: Path,
    out: Path,
    *,
    knows_wrong: bool = False,
    shard_rows: int = 8192,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the signal of a pool from the generator's truth.parquet: the metadata teacher's noiseless labels.

    knows_wrong: whether the teacher's penalty is applied to every sample with a wrong answer; otherwise wrong
    answers are rated like correct ones. Returns the counts of `write_signal`. Raises LabelError for a file
    that is not a truth table, OtherPoolError for one that lacks a sample of the pool.
    """
    teacher = MetadataTeacher(truth, noise=0.0, knows_wrong=knows_wrong, knows_rate=1.0)

    def compute(rows: range, advance: Advance) -> pa.Table:
        labels = list(teacher.label(pool.samples(rows)))
        if missing := [label.id for label in labels if label.missing]:
            raise OtherPoolError(f"{truth} lacks sample {missing[0]}: it belongs to another pool")
        scores = np.array(
            [[label.scores[capability] for capability in CAPABILITY_KEYS] for label in labels], np.int8
        )
        statistics: dict[str, np.ndarray] = {
            "cap": scores,
            "exp": scores.astype(np.float32),
            "ent": np.zeros(scores.shape, np.float32),
            "mass": np.ones(scores.shape, np.float32),
        }
        columns = {"row": pa.array([label.row for label in labels], pa.int32())}
        for statistic, values in statistics.items():
            columns |= {
                f"{statistic}_{capability}": pa.array(values[:, c])
                for c, capability in enumerate(CAPABILITY_KEYS)
            }
        columns["styles"] = pa.array([list(label.styles) for label in labels], pa.list_(pa.string()))
        advance(len(labels))
        return pa.table(columns)

    identity = {
        "producer": "oracle",
        "pool_hash": pool.hash,
        "truth": hashlib.sha256(truth.read_bytes()).hexdigest(),
        "knows_wrong": knows_wrong,
    }
    return write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
