"""LLaVA-style SFT of the base on one subset: what a selector chose, or one of the subsets of a probe."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.fitting import train

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint; samples are seen in an order that the train seed decides, not the ranks of the subset."""
    from curation.pool.read import Pool

    settings = {key: value for key, value in config.items() if key != "subset"}
    rows = sorted(_rows(inputs["subset"], config.get("subset")))
    samples = list(Pool.open(inputs["pool"]).samples(rows))
    return train(settings, config["seed"], inputs["base"], samples, out, progress)


def _rows(folder: Path, number: int | None) -> list[int]:
    """The rows of a subset, or of the subset `number` of those that a probe trains on."""
    from curation.subset import read_subset

    if number is None:
        return read_subset(folder)["row"].to_pylist()
    return json.loads((folder / "subsets.json").read_text())[number]
