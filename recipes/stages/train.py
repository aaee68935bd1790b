"""LLaVA-style SFT of the base on one subset."""

from pathlib import Path
from typing import Any

from recipes.stages.fitting import train

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint; samples are seen in an order that the train seed decides, not the ranks of the subset."""
    from curation.pool.read import Pool
    from curation.subset import read_subset

    pool = Pool.open(inputs["pool"])
    rows = sorted(read_subset(inputs["subset"])["row"].to_pylist())
    return train(config, config["seed"], inputs["base"], list(pool.samples(rows)), out, progress)
