"""Influence on target tasks in a subspace of the projected gradients (SEED, arXiv 2605.15691).

    score_masked_influence(pool, base, out, gradients="gradient_adam", warmup="warm", validation="val.json")

Columns:

- masked_influence_<task> float32: as LESS's influence (mean inner product of unit gradients over a subtask's
  items, the largest over subtasks, summed over checkpoints with their learning rates as weights), but over
  those channels alone whose mean absolute value exceeds the average channel's both over the pool and over the
  task's items, at each checkpoint
- adam_mean_grad: the mean over checkpoints of the unit gradients, by which SEED compares samples

The pool's gradients are read from a finished signal; only the items' gradients are computed.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from curation.signals.core.vector_files import matrix, vector_array
from curation.signals.gradients.at_warmup import score_gradients_at_warmup
from curation.signals.gradients.producer import influence
from curation.signals.gradients.validation import Items, ValidationError

if TYPE_CHECKING:
    from curation.pool.read import Pool

_SAME = ("model_hash", "adapters", "lr_weights", "dim", "seed")
_BLOCK = 4096


def score_masked_influence(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    gradients: Path,
    warmup: Path,
    validation: Path | Sequence[Sample],
    validation_images: Path | None = None,
    column: str = "adam_grad",
    shard_rows: int = 8192,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the signal of a pool to `out`; parts that are complete are kept.

    gradients: the signal that holds `column`, made at all checkpoints of `warmup`. validation: as for
    `score_gradients`. Rows without a gradient are null. Returns also the number of channels that each task
    keeps, of how many, and of validation items used.
    Raises SignalError where the signal was made by another model or at other adapters, ValidationError for a
    subtask without any gradient, or if no task keeps a channel; one that keeps none has influence 0, as in
    the released code.
    """
    gradients = Path(gradients)  # a command line gives text
    made = read_metadata(gradients)
    if absent := [key for key in _SAME if key not in made]:
        raise SignalError(f"{gradients} holds no gradients at a warm-up: it has no {', '.join(absent)}")
    items = Items(validation, out / "validation", validation_images)
    score_gradients_at_warmup(
        cast("Pool", items),
        model_dir,
        out / "targets",
        warmup=warmup,
        validation=None,
        checkpoints="all",
        dim=made["dim"],
        seed=made["seed"],
    )
    theirs = read_metadata(out / "targets")
    if differing := [key for key in _SAME if made.get(key) != theirs.get(key)]:
        raise SignalError(
            f"{gradients} differs in {', '.join(differing)} from the gradients at {warmup}: compute it at "
            "all checkpoints of this warm-up"
        )
    weights = np.array(made["lr_weights"])
    vectors, known = matrix(read_signal(gradients, pool.hash), column)
    targets, with_target = matrix(read_signal(out / "targets"), "grad")
    directions, channels = masked_directions(
        items.tasks, targets, with_target, mean_size(vectors, known), len(weights)
    )

    def compute(rows: range, advance: Advance) -> pa.Table:
        part, have = vectors[rows.start : rows.stop].astype(np.float32), known[rows.start : rows.stop]
        columns = {"row": pa.array(rows, pa.int32())}
        for task, direction in directions.items():
            columns[f"masked_influence_{task}"] = pa.array(
                influence(part, direction), pa.float32(), mask=~have
            )
        columns["adam_mean_grad"] = vector_array(mean_of_units(part, weights), have)
        advance(len(rows))
        return pa.table(columns)

    identity = {
        "producer": "masked_influence",
        "pool_hash": pool.hash,
        "gradients": made["identity"],
        "column": column,
        "targeted": True,
        "validation_hash": items.hash,
        "tasks": list(items.tasks),
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **counts,
        "rows": len(pool),
        "rows_missing": int((~known).sum()),
        "channels": channels,
        "of_channels": vectors.shape[1],
        "validation_samples": int(with_target.sum()),
        "say": [f"{task}: {count} of {vectors.shape[1]} channels" for task, count in channels.items()],
    }


def masked_directions(
    tasks: Mapping[str, Mapping[str, list[int]]],
    targets: np.ndarray,
    known: np.ndarray,
    pool_size: np.ndarray,
    checkpoints: int,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(task -> float32 [subtasks, d], task -> channels kept): mean unit gradients, 0 in the other channels.

    tasks: the items of each subtask, as places in targets [m, d], of which those `known` bool [m] count.
    pool_size: float64 [d], mean absolute values over the pool. Raises ValidationError.
    """
    directions, channels = {}, {}
    for task, subtasks in tasks.items():
        own = [np.array([at for at in places if known[at]], np.int64) for places in subtasks.values()]
        if not all(map(len, own)):
            raise ValidationError(f"a subtask of {task} has no item with a gradient")
        of_task = targets[np.concatenate(own)].astype(np.float32)
        task_size = mean_size(of_task, np.ones(len(of_task), bool))
        mask = above_average(pool_size, checkpoints) & above_average(task_size, checkpoints)
        means = np.stack([targets[places].astype(np.float32).mean(axis=0) for places in own])
        directions[task], channels[task] = means * mask, int(mask.sum())
    if not any(channels.values()):
        raise ValidationError(
            f"no channel is above the average both of the pool and of a task ({', '.join(tasks)}); "
            "give more items, or longer gradients (dim)"
        )
    return directions, channels


def mean_size(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float64 [d]: the mean absolute value of each channel of the known vectors [n, d]."""
    total = np.zeros(vectors.shape[1])
    for block, have in _blocks(vectors, known):
        total += np.abs(block[have].astype(np.float64)).sum(axis=0)
    return total / max(int(known.sum()), 1)


def above_average(size: np.ndarray, checkpoints: int) -> np.ndarray:
    """bool [d]: whether the size of a channel float64 [d] exceeds the mean size of its checkpoint's channels.

    The d channels are those of `checkpoints` vectors of one length, one after the other.
    """
    parts = size.reshape(checkpoints, -1)
    return (parts > parts.mean(axis=1, keepdims=True)).reshape(-1)


def mean_of_units(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 [n, d / k]: the mean of k unit vectors that stand one after the other in vectors [n, d].

    weights: float64 [k], shares of the checkpoints; each unit vector is stored times the root of its share.
    """
    parts = vectors.reshape(len(vectors), len(weights), -1) / np.sqrt(weights)[None, :, None]
    return parts.mean(axis=1).astype(np.float32)


def _blocks(vectors: np.ndarray, known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors[start : start + _BLOCK], known[start : start + _BLOCK]
