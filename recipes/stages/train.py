"""LLaVA-style SFT of the base on one subset."""

from pathlib import Path
from typing import Any

from recipes.stages.fitting import train

CODE = (
    "training/adapters.py",
    "training/collate.py",
    "training/distributed.py",
    "training/fit.py",
    "training/images.py",
    "training/launch.py",
    "training/models.py",
    "training/parent_death.py",
    "training/plan.py",
    "training/rank.py",
    "training/render.py",
    "training/spec.py",
    "training/trainer.py",
    "training/templates",
    "training/deepspeed",
    "curation/pool/images.py",
    "curation/pool/read.py",
    "curation/pool/record.py",
    "recipes/stages/fitting.py",
)
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint; samples are seen in an order that the train seed decides, not the ranks of the subset."""
    from curation.pool.read import Pool
    from curation.subset import read_subset

    pool = Pool.open(inputs["pool"])
    rows = sorted(read_subset(inputs["subset"])["row"].to_pylist())
    return train(config, config["seed"], inputs["base"], list(pool.samples(rows)), out, progress)
