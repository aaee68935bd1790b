"""Cosines of each sample to query examples of target tasks, by a named embedding (RDS+, arXiv 2503.01807).

    score_queries(pool, base, out, vectors="signals/embedding_position_weighted", validation="val.json")

Column rds_<task>, a list of float32: the cosine to each item of the task that has a vector, in their order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from curation.pool.sample import Sample
from curation.signals.core.table import (
    Advance,
    Progress,
    SignalError,
    read_metadata,
    read_signal,
    write_signal,
)
from curation.signals.core.vector_files import matrix
from curation.signals.gradients.validation import Items, ValidationError
from curation.signals.vectors.embeddings import embed_pool
from curation.signals.vectors.presets import KINDS

if TYPE_CHECKING:
    from curation.pool.read import Pool


def score_queries(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    vectors: Path,
    validation: Path | Sequence[Sample],
    validation_images: Path | None = None,
    shard_rows: int = 8192,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the signal of a pool to `out`; parts that are complete are kept.

    vectors: a finished embedding of the pool with one column, which `model_dir` made; the items are embedded
    by the same model with the same settings. validation: items whose `source` is the task (subtasks count as
    their task), or a path that `read_validation` reads. Items that have no vector are left out
    (`queries_missing`); rows without a vector are null.
    Raises SignalError for vectors of another model or with two columns, ValidationError for a task without
    any vector.
    """
    vectors = Path(vectors)  # a command line gives text
    made, items = read_metadata(vectors), Items(validation, out / "validation", validation_images)
    if len(columns := made.get("columns", [])) != 1:
        raise SignalError(f"{vectors} must be an embedding with one column, it has {', '.join(columns)}")
    settings = {key: made[key] for key in ("kind", *KINDS[made["kind"]])}
    embed_pool(
        cast("Pool", items),
        model_dir,
        out / "queries",
        name="query",
        dtype=made.get("dtype", "float32"),  # sentence encoders compute in that alone
        device=device,
        **settings,
    )
    if read_metadata(out / "queries")["model_hash"] != made["model_hash"]:
        raise SignalError(f"{vectors} was not made by {model_dir}: give the model that made it")
    queries, held = matrix(read_signal(out / "queries"), "emb_query")
    of_task = by_task(items.tasks, queries, held)
    own, known = matrix(read_signal(vectors, pool.hash), columns[0])

    def compute(rows: range, advance: Advance) -> pa.Table:
        part, have = unit(own[rows.start : rows.stop]), known[rows.start : rows.stop]
        table = {"row": pa.array(rows, pa.int32())}
        table |= {f"rds_{task}": lists(part @ unit_.T, have) for task, unit_ in of_task.items()}
        advance(len(rows))
        return pa.table(table)

    identity = {
        "producer": "queries",
        "pool_hash": pool.hash,
        "vectors_identity": made["identity"],
        "targeted": True,
        "validation_hash": items.hash,
        "tasks": {task: len(vector) for task, vector in of_task.items()},
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **counts,
        "rows": len(pool),
        "rows_missing": int((~known).sum()),
        "queries": identity["tasks"],
        "queries_missing": int((~held).sum()),
        "say": [f"{len(items)} queries of {len(of_task)} tasks, {int((~held).sum())} without a vector"],
    }


def by_task(
    tasks: Mapping[str, Mapping[str, list[int]]], queries: np.ndarray, held: np.ndarray
) -> dict[str, np.ndarray]:
    """Task -> float32 [q, d]: the unit vectors of its items that are `held`. Raises ValidationError."""
    found = {}
    for task, subtasks in tasks.items():
        places = sorted(at for own in subtasks.values() for at in own if held[at])
        if not places:
            raise ValidationError(f"no item of task {task} has a vector")
        found[task] = unit(queries[places])
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, d]: the rows scaled to length 1; zero rows stay zero."""
    values = vectors.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def lists(values: np.ndarray, known: np.ndarray) -> pa.ListArray:
    """list<float32>: a row of values float32 [n, q] each, null where it is not known."""
    flat = pa.array(np.ascontiguousarray(values[known], np.float32).reshape(-1))
    offsets = np.concatenate([[0], np.cumsum(known * values.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(~known))
