"""Text-only grades of a sample: reward, judge, complexity and quality, float32. No grader sees an image.

    score_quality(pool, out, kind="models", reward_model=DIR, complexity_model=DIR, quality_model=DIR)
    score_quality(pool, out, kind="models", judge_model="gpt-4o", options={"max_cost_usd": 20})
    score_quality(pool, out, kind="metadata", truth=Path("truth.parquet"))  # the mini world's stand-in

- reward: a reward model's logit for (question, answer), mean over the turns
- judge: 0-100 by a chat model, temperature 0 (InstructionGPT-4, arXiv 2308.12067)
- complexity, quality: expected value over the grades 1..6 of Deita's scorers, sum over the turns (arXiv
  2312.15685)
- deita_score, with the two: sum over the turns of complexity · quality of the turn, as in Deita's released
  code. The product of the two sums is another quantity, which grows with the square of the number of turns

A column that is not requested, or whose model is not given, is not in the signal. A sample that a grader
fails to grade is null and counted; there is no default grade.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample

COLUMNS = ("reward", "judge", "complexity", "quality")
BY_TURN = ("complexity", "quality")
"""Columns whose grades of single turns `deita_score` multiplies."""
KINDS = ("metadata", "models")


class Grader(Protocol):
    """Computes the grades of one column."""

    def identity(self) -> dict[str, Any]:
        """What determines the grades."""

    def grade(self, samples: Sequence["Sample"], advance: Callable[[float], None]) -> list[float | None]:
        """A grade for each sample, None where grading fails; `advance` takes fractions of samples."""

    def summary(self) -> dict[str, Any]:
        """Counts of this run: failures by reason in `missing`, and those specific to the grader."""


class TurnGrader(Grader, Protocol):
    """Computes the grades of a column that is made of grades of the turns."""

    def grade_turns(
        self, samples: Sequence["Sample"], advance: Callable[[float], None]
    ) -> Sequence[Sequence[float | None]]:
        """The grades of each sample's turns, None where grading fails."""

    def join(self, by_sample: Sequence[Sequence[float | None]]) -> list[float | None]:
        """A sample's grade from those of its turns."""


def score_quality(
    pool: "Pool",
    out: Path,
    *,
    kind: str = "metadata",
    columns: Sequence[str] | None = None,
    truth: Path | None = None,
    noise: float = 1.0,
    knows_rate: float = 0.3,
    seed: int = 0,
    reward_model: Path | None = None,
    complexity_model: Path | None = None,
    quality_model: Path | None = None,
    judge_model: str | None = None,
    base_url: str | None = None,
    options: dict[str, Any] | None = None,
    max_failed: float = 0.05,
    max_tokens: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    shard_rows: int = 2048,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the quality signal of a pool to `out`; parts that are complete are kept.

    columns: some of COLUMNS; default: all that are possible. `deita_score` comes with complexity and quality.
    kind "metadata": `truth` is the generator's truth.parquet; noise, knows_rate and seed as in
    `quality_metadata`.
    kind "models": checkpoint directories of a sequence classifier with one logit (reward) and of causal
        models trained as Deita's scorers; judge_model at base_url (None: OpenAI's service), options:
        `concurrency` and those of ChatClient. max_failed: share of a shard's samples for which the judge may
        fail; above it the run stops.
        max_tokens: padded tokens in a batch.

    Returns samples/s, the mean and the number of nulls of each column, and each grader's counts.
    Raises ValueError for columns that are not possible, ModelError, EngineError, and what ChatClient raises.
    """
    graders: Mapping[str, Grader]
    if kind == "metadata":
        graders = _stand_ins(pool, columns or COLUMNS, truth, noise, knows_rate, seed)
    elif kind == "models":
        paths = {"reward": reward_model, "complexity": complexity_model, "quality": quality_model}
        judge = dict(base_url=base_url, max_failed=max_failed, **(options or {}))
        graders = _models(columns, paths, judge_model, judge, max_tokens, dtype, device)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    start, computed = time.perf_counter(), 0

    def compute(rows: range, advance: Advance) -> pa.Table:
        nonlocal computed
        grades = grade_all(graders, list(pool.samples(rows)), _rows_from(advance, len(graders)))
        computed += len(rows)
        columns = {column: pa.array(values, pa.float32()) for column, values in grades.items()}
        return pa.table({"row": pa.array(rows, pa.int32()), **columns})

    identity = {
        "producer": "quality",
        "pool_hash": pool.hash,
        "kind": kind,
        "graders": {column: grader.identity() for column, grader in graders.items()},
    }
    if set(BY_TURN) <= set(graders):
        identity["deita_score"] = "by turn"  # signals without this entry lack the column
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    seconds = time.perf_counter() - start
    return {
        **counts,
        "seconds": round(seconds, 3),
        "samples_per_second": round(computed / seconds, 1) if computed else None,
        "columns": {
            column: {**_describe(values), **_counts(graders.get(column))}
            for column, values in _columns(out, pool).items()
        },
    }


def grade_all(
    graders: Mapping[str, Grader], samples: Sequence["Sample"], advance: Callable[[float], None]
) -> dict[str, list[float | None]]:
    """The grades by column, and `deita_score` where there are complexity and quality."""
    grades, turns = {}, []
    for column, grader in graders.items():
        if column in BY_TURN:
            by_turn = cast("TurnGrader", grader)
            turns.append(by_turn.grade_turns(samples, advance))
            grades[column] = by_turn.join(turns[-1])
        else:
            grades[column] = grader.grade(samples, advance)
    if len(turns) == len(BY_TURN):
        grades["deita_score"] = [turn_products(*pair) for pair in zip(*turns, strict=True)]
    return grades


def turn_products(complexity: Sequence[float | None], quality: Sequence[float | None]) -> float | None:
    """Sum over the turns of complexity · quality (Deita's released code); None where a grade is missing."""
    if None in complexity or None in quality:
        return None
    pairs = zip(cast("Sequence[float]", complexity), cast("Sequence[float]", quality), strict=True)
    total = math.fsum(c * q for c, q in pairs)
    return total if math.isfinite(total) else None


def _stand_ins(
    pool: "Pool", columns: Sequence[str], truth: Path | None, noise: float, knows_rate: float, seed: int
) -> Mapping[str, Grader]:
    from curation.signals.quality.stand_in import stand_ins

    if truth is None:
        raise ValueError("kind 'metadata' needs truth: the generator's truth.parquet")
    return stand_ins(pool, _requested(columns, COLUMNS), truth, noise, knows_rate, seed)


def _models(
    columns: Sequence[str] | None,
    paths: dict[str, Path | None],
    judge_model: str | None,
    judge: dict[str, Any],
    max_tokens: int,
    dtype: str,
    device: str | None,
) -> Mapping[str, Grader]:
    """The graders of the requested columns, of those whose model is given. judge: arguments of Judge."""
    from curation.signals.quality.judge import Judge
    from curation.signals.quality.models import RewardModel, ScaleModel

    graders: dict[str, Grader] = {}
    possible = {column: path for column, path in paths.items() if path is not None}
    for column in _requested(columns, [*possible, *(["judge"] if judge_model is not None else [])]):
        if column == "judge":
            graders[column] = Judge(str(judge_model), **judge)
        elif column == "reward":
            graders[column] = RewardModel(possible[column], max_tokens, dtype, device)
        else:
            graders[column] = ScaleModel(column, possible[column], max_tokens, dtype, device)
    return graders


def _requested(columns: Sequence[str] | None, possible: Sequence[str]) -> list[str]:
    """The requested columns (None: all possible ones) in the order of COLUMNS.

    Raises ValueError for a column that is not possible, and for none at all.
    """
    requested = list(possible if columns is None else columns)
    for column in requested:
        if column not in COLUMNS:
            raise ValueError(f"column must be one of {', '.join(COLUMNS)}, got {column!r}")
        if column not in possible:
            raise ValueError(f"column {column!r} needs a model: set {column}_model")
    if not requested:
        raise ValueError(f"no column is requested: give a model for at least one of {', '.join(COLUMNS)}")
    return [column for column in COLUMNS if column in requested]


def _rows_from(advance: Advance, graders: int) -> Callable[[float], None]:
    """Convert fractions of samples completed by single graders into whole rows completed by all."""
    done, reported = 0.0, 0

    def step(samples: float) -> None:
        nonlocal done, reported
        done += samples / graders
        whole = int(done + 1e-6)  # fractions of a sample sum to slightly less than 1
        advance(whole - reported)
        reported = whole

    return step


def _columns(out: Path, pool: "Pool") -> dict[str, pa.ChunkedArray]:
    signal = read_signal(out, pool.hash)
    return {name: signal[name] for name in signal.column_names if name != "row"}


def _counts(grader: Grader | None) -> dict[str, Any]:
    """The counts of a column's grader; those of deita_score are its graders'."""
    return {"missing": {}} if grader is None else grader.summary()


def _describe(values: pa.ChunkedArray) -> dict[str, Any]:
    known = values.drop_null().to_numpy()
    return {"mean": float(known.mean(dtype=np.float64)) if len(known) else None, "nulls": values.null_count}
