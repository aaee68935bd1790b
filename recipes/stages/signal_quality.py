"""Reward, judge, complexity and quality of every answer; in the mini world from its own record, with noise."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the quality signal."""
    from curation.pool.read import Pool
    from curation.signals.quality.producer import score_quality

    return score_quality(
        Pool.open(inputs["pool"]),
        out,
        truth=inputs["source"] / "truth.parquet",
        on_progress=counter(progress),
        **config,
    )
