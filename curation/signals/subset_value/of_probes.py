"""Subset values learned from what a probe left: subsets, evaluations of models trained on them, signals."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.signals.core.table import Progress, join, read_signal
from curation.signals.subset_value.features import CHARACTERS, VECTORS
from curation.signals.subset_value.producer import score_subset_value

if TYPE_CHECKING:
    from curation.pool.read import Pool


def score_value_of_probes(
    pool: "Pool",
    out: Path,
    *,
    signals: Sequence[Path],
    subsets: Path,
    evaluates: Sequence[Path],
    regressor: str = "ridge",
    indicators: Sequence[str] = (),
    vectors: Sequence[str] = VECTORS,
    components: int = 6,
    scaling: str = "standard",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """As `score_subset_value`; a probe's label is the mean over the benchmarks of its summary.json.

    subsets: directory with subsets.json, one list of rows for each evaluation in `evaluates`.
    """
    columns = join(pool.table, [read_signal(path, pool.hash) for path in signals])
    if CHARACTERS in indicators:
        columns = columns.append_column(CHARACTERS, answer_characters(pool))
    rows = json.loads((subsets / "subsets.json").read_text())
    summaries = [json.loads((path / "summary.json").read_text())["benchmarks"] for path in evaluates]
    labels = [fmean(benchmark["value"] for benchmark in benchmarks.values()) for benchmarks in summaries]
    summary = score_subset_value(
        pool,
        columns,
        rows,
        labels,
        out,
        regressor=regressor,
        indicators=indicators,
        vectors=vectors,
        components=components,
        scaling=scaling,
        seed=seed,
        on_progress=on_progress,
    )
    r2 = summary["loso_r2"]
    warning = "" if r2 > 0 else " (WARNING: not above 0, so the values are no better than random)"
    spread = f"{len(labels)} probes from {min(labels):.4f} to {max(labels):.4f}"
    return {**summary, "say": [f"{spread}; leave-one-subset-out R2 {r2:.3f}{warning}"]}


def answer_characters(pool: "Pool") -> pa.Array:
    """int32 [n]: the characters of each sample's answers."""
    return pa.array([sum(len(turn.answer) for turn in sample.turns) for sample in pool.samples()], pa.int32())
