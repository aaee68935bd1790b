"""Capability scores and styles from the mini world's own record, in place of a scorer's and a styler's."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes one signal with the columns of both learned ones."""
    from curation.pool.read import Pool
    from curation.signals.raters.oracle import tell_truth

    return tell_truth(
        Pool.open(inputs["pool"]),
        inputs["source"] / "truth.parquet",
        out,
        knows_wrong=config["knows_wrong"],
        on_progress=counter(progress),
    )
