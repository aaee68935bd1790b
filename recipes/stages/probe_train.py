"""SFT of the base on one subset of the probe."""

import json
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
    """Writes the checkpoint."""
    from curation.pool.read import Pool

    settings = {key: value for key, value in config.items() if key != "subset"}
    rows = sorted(json.loads((inputs["subsets"] / "subsets.json").read_text())[config["subset"]])
    return train(
        settings, config["seed"], inputs["base"], list(Pool.open(inputs["pool"]).samples(rows)), out, progress
    )
