"""Labels on disk: `labels.parquet` and, written last, `labels.json` with counts, cost and parameters.

Columns: row, id, cap_<capability> (int8, null = no score), styles (list of text). `second.parquet` has the
same columns for the samples that were labelled twice.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE
from curation.teacher.base import Prepares, SecondOpinion, Teacher
from curation.teacher.draw import choose_again, choose_rows
from curation.teacher.rubric import Label, LabelError, rubric_hash

if TYPE_CHECKING:
    from curation.pool.read import Pool

LABEL_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        *((f"cap_{capability}", pa.int8()) for capability in CAPABILITY_KEYS),
        ("styles", pa.list_(pa.string())),
    ]
)
PROGRESS_EVERY = 64
"""Labels between two calls of `on_progress`."""


def label_pool(
    pool: "Pool",
    teacher: Teacher,
    out: Path,
    *,
    share: float = 0.05,
    seed: int = 0,
    floor: int = 3,
    temper: float = 1.0,
    agreement: float = 0.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Let the teacher label a share of the pool, stratified by source (see `choose_rows`); writes `out`.

    Returns the content of labels.json: the requested and the reached share, counts by score, style and
    reason, the cost and the teacher's parameters; with `agreement`, the share of these samples that gets a
    second label, how far the two agree (curation.teacher.agreement). `on_progress` receives (labels done,
    labels in total). Raises LabelError if no sample got a usable label.
    """
    rows = choose_rows(pool.table, share, seed, floor, temper)
    labels = _labels_of(pool, rows, teacher, on_progress)
    second = _second_labels(pool, labels, teacher, agreement, seed)
    summary = {
        "pool_hash": pool.hash,
        "share": share,
        "share_labelled": len(rows) / len(pool),
        "seed": seed,
        "floor": floor,
        "temper": temper,
        "rubric_hash": rubric_hash(),
        **teacher.describe(),
        "cost": asdict(teacher.cost()),
        **count_labels(labels),
        **({"agreement": _agreement(labels, second)} if second else {}),
    }
    write_labels(out, labels, summary, second)
    return summary


def _labels_of(
    pool: "Pool", rows: np.ndarray, teacher: Teacher, on_progress: Callable[[int, int], None] | None = None
) -> list[Label]:
    labels: list[Label] = []
    if isinstance(teacher, Prepares):
        teacher.prepare(lambda: pool.samples(rows))
    for done, label in enumerate(teacher.label(pool.samples(rows)), start=1):
        labels.append(label)
        if on_progress and (done % PROGRESS_EVERY == 0 or done == len(rows)):
            on_progress(done, len(rows))
    _check_answers(rows.tolist(), labels, teacher)
    return labels


def _second_labels(
    pool: "Pool", labels: list[Label], teacher: Teacher, share: float, seed: int
) -> list[Label]:
    rows = np.array([label.row for label in labels], np.int64)
    again = choose_again(rows, [label.id for label in labels], share, seed)
    if not len(again):
        return []
    if not isinstance(teacher, SecondOpinion):
        raise LabelError(f"teacher {teacher.name!r} has no second opinion: set agreement to 0")
    return _labels_of(pool, again, teacher.second())


def _agreement(labels: list[Label], second: list[Label]) -> dict[str, Any]:
    from curation.teacher.agreement import agreement

    first = {label.row: label for label in labels}
    return agreement([first[label.row] for label in second], second)


def count_labels(labels: list[Label]) -> dict[str, Any]:
    """Counts for labels.json: missing labels by reason, samples by style, samples by capability and score."""
    scores = {capability: [0] * (MAX_SCORE + 1) for capability in CAPABILITY_KEYS}
    for label in labels:
        for capability, score in label.scores.items():
            if score is not None:
                scores[capability][score] += 1
    return {
        "n": len(labels),
        "missing": dict(sorted(Counter(label.missing for label in labels if label.missing).items())),
        "missing_scores": sum(score is None for label in labels for score in label.scores.values()),
        "styles": dict(sorted(Counter(style for label in labels for style in label.styles).items())),
        "scores": scores,
    }


def write_labels(
    out: Path, labels: list[Label], summary: dict[str, Any], second: Sequence[Label] = ()
) -> None:
    """Write the files, each by renaming a temporary file; labels.json last: its presence means complete."""
    out.mkdir(parents=True, exist_ok=True)
    for name, own in (("labels.parquet", labels), ("second.parquet", second)):
        if own or own is labels:
            with atomic.replacing(out / name) as temporary:
                pq.write_table(_table(own), temporary)
    atomic.write_text(out / "labels.json", json.dumps(summary, indent=1) + "\n")


def _table(labels: Sequence[Label]) -> pa.Table:
    columns = {
        "row": [label.row for label in labels],
        "id": [label.id for label in labels],
        **{f"cap_{name}": [label.scores[name] for label in labels] for name in CAPABILITY_KEYS},
        "styles": [list(label.styles) for label in labels],
    }
    return pa.table(columns, schema=LABEL_SCHEMA)


def read_labels(directory: Path, pool_hash: str) -> pa.Table:
    """The labels table, sorted by row. Raises LabelError if it is missing, damaged or of another pool."""
    try:
        summary = json.loads((directory / "labels.json").read_text())
        table = pq.read_table(directory / "labels.parquet")
    except FileNotFoundError as error:
        raise LabelError(
            f"{directory} holds no finished labels ({error.filename} does not exist); label again"
        ) from error
    except (json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise LabelError(f"{directory} is damaged ({error}); label again") from error
    if summary["pool_hash"] != pool_hash:
        raise LabelError(
            f"{directory} belongs to pool {summary['pool_hash']}, not to {pool_hash}; label this pool"
        )
    if not table.schema.equals(LABEL_SCHEMA):
        raise LabelError(f"{directory / 'labels.parquet'} does not have the columns of labels; label again")
    return table.sort_by("row")


def _check_answers(rows: list[int], labels: list[Label], teacher: Teacher) -> None:
    if [label.row for label in labels] != rows:
        raise LabelError(
            f"teacher {teacher.name!r} returned {len(labels)} labels whose rows are not those of the "
            f"{len(rows)} samples"
        )
    if all(score is None for label in labels for score in label.scores.values()):
        reasons = Counter(label.missing for label in labels)
        raise LabelError(
            f"teacher {teacher.name!r} gave no usable label for {len(rows)} samples: {dict(reasons)}"
        )
