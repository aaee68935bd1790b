"""Text-only grades of a sample: reward, judge, complexity and quality, float32. None of these graders sees an image.

    score_quality(pool, out, kind="models", reward_model=DIR, complexity_model=DIR, quality_model=DIR)
    score_quality(pool, out, kind="models", judge_model="gpt-4o", judge_options={"max_cost_usd": 20})
    score_quality(pool, out, kind="metadata", truth=Path("truth.parquet"))          # the mini world's stand-in

- reward: a reward model's logit for (question, answer), mean over the turns
- judge: 0-100 by a chat model, temperature 0 (InstructionGPT-4, arXiv 2308.12067)
- complexity, quality: expected value over the grades 1..6 of Deita's scorers, sum over the turns (arXiv 2312.15685)

A column that is not asked for, or whose model is not given, is not in the signal. What a grader fails at is null and
counted; there is no default score.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from curation.signals.core.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.pool.sample import Sample

COLUMNS = ("reward", "judge", "complexity", "quality")
KINDS = ("metadata", "models")


class Grader(Protocol):
    """What fills one column."""

    def identity(self) -> dict[str, Any]:
        """What decides the grades."""

    def grade(self, samples: Sequence["Sample"], advance: Callable[[float], None]) -> list[float | None]:
        """A grade for each sample, None where it fails; `advance` takes shares of a sample that are done."""

    def summary(self) -> dict[str, Any]:
        """Counts of this run: failures by reason under `missing`, and the grader's own."""


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
    judge_url: str | None = None,
    judge_options: dict[str, Any] | None = None,
    max_failed: float = 0.05,
    max_tokens: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    shard_rows: int = 2048,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the quality signal of a pool to `out`; parts that are complete are kept.

    columns: which of COLUMNS (default: all that can be had).
    kind "metadata": `truth` is the generator's truth.parquet; noise, knows_rate and seed as in `quality_metadata`.
    kind "models": checkpoint directories of a sequence classifier with one logit (reward) and of causal models that were
        trained as Deita's scorers; judge_model at judge_url (None: OpenAI's service), judge_options: `concurrency` and
        those of ChatClient. max_failed: share of a shard's samples for which the judge may fail; above it the run stops.
        max_tokens: padded tokens in a batch.
    Returns samples/s, the mean and the nulls of each column, and each grader's counts.
    Raises ValueError for columns that cannot be had, ModelError, EngineError, and what ChatClient raises.
    """
    if kind == "metadata":
        graders = _stand_ins(pool, columns or COLUMNS, truth, noise, knows_rate, seed)
    elif kind == "models":
        paths = {"reward": reward_model, "complexity": complexity_model, "quality": quality_model}
        given = [
            column for column in COLUMNS if (judge_model if column == "judge" else paths[column]) is not None
        ]
        graders = _models(
            _wanted(columns, given),
            paths,
            judge_model,
            judge_url,
            judge_options,
            max_failed,
            max_tokens,
            dtype,
            device,
        )
    else:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    start, computed = time.perf_counter(), 0

    def compute(rows: range, advance: Advance) -> pa.Table:
        nonlocal computed
        samples, part = list(pool.samples(rows)), _part_of_rows(advance, len(graders))
        grades = {
            column: pa.array(grader.grade(samples, part), pa.float32()) for column, grader in graders.items()
        }
        computed += len(rows)
        return pa.table({"row": pa.array(rows, pa.int32()), **grades})

    identity = {
        "producer": "quality",
        "pool_hash": pool.hash,
        "kind": kind,
        "graders": {c: g.identity() for c, g in graders.items()},
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    seconds = time.perf_counter() - start
    return {
        **counts,
        "seconds": round(seconds, 3),
        "samples_per_second": round(computed / seconds, 1) if computed else None,
        "columns": {
            column: {**_describe(values), **graders[column].summary()}
            for column, values in _columns(out, pool).items()
        },
    }


def _stand_ins(
    pool: "Pool", columns: Sequence[str], truth: Path | None, noise: float, knows_rate: float, seed: int
) -> dict[str, Grader]:
    from curation.signals.quality.stand_in import stand_ins

    if truth is None:
        raise ValueError("kind 'metadata' needs truth: the generator's truth.parquet")
    return stand_ins(pool, _wanted(columns, COLUMNS), truth, noise, knows_rate, seed)


def _models(
    columns: Sequence[str], paths: dict[str, Path | None], judge_model: str | None, judge_url: str | None,
    judge_options: dict[str, Any] | None, max_failed: float, max_tokens: int, dtype: str, device: str | None,
) -> dict[str, Grader]:  # fmt: skip
    from curation.signals.quality.judge import Judge
    from curation.signals.quality.models import RewardModel, ScaleModel

    graders: dict[str, Grader] = {}
    for column in columns:
        if column == "judge":
            graders[column] = Judge(judge_model, judge_url, max_failed=max_failed, **(judge_options or {}))
        elif column == "reward":
            graders[column] = RewardModel(paths[column], max_tokens, dtype, device)
        else:
            graders[column] = ScaleModel(column, paths[column], max_tokens, dtype, device)
    return graders


def _wanted(columns: Sequence[str] | None, possible: Sequence[str]) -> list[str]:
    """The columns asked for, in their fixed order. Raises ValueError where there are none, or one that cannot be had."""
    asked = list(possible if columns is None else columns)
    if wrong := [column for column in asked if column not in possible]:
        raise ValueError(
            f"column {wrong[0]!r} cannot be had: {f'there are {list(possible)}' if wrong[0] not in COLUMNS else 'its model is not given'}"
        )
    if not asked:
        raise ValueError(f"no column is asked for: name a model for one of {', '.join(COLUMNS)}")
    return [column for column in COLUMNS if column in asked]


def _part_of_rows(advance: Advance, graders: int) -> Callable[[float], None]:
    """Turns shares of samples that one of several graders has done into whole rows that are done by all."""
    done, told = 0.0, 0

    def part(samples: float) -> None:
        nonlocal done, told
        done += samples / graders
        whole = int(done + 1e-6)
        advance(whole - told)
        told = whole

    return part


def _columns(out: Path, pool: "Pool") -> dict[str, pa.ChunkedArray]:
    signal = read_signal(out, pool.hash)
    return {name: signal[name] for name in signal.column_names if name != "row"}


def _describe(values: pa.ChunkedArray) -> dict[str, Any]:
    known = values.drop_null().to_numpy()
    return {"mean": float(known.mean(dtype=np.float64)) if len(known) else None, "nulls": values.null_count}
