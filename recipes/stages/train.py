"""LLaVA-style SFT of the base on one subset: the one that a selector chose, or one of a probe's."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.fitting import stored, train

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint.

    The training seed decides the order of the samples, not their rank in the subset.
    """
    settings = {key: value for key, value in config.items() if key != "subset"}
    rows = sorted(_rows(inputs["subset"], config.get("subset")))
    return train(settings, config["seed"], inputs["base"], stored(inputs, rows, settings), out, progress)


def _rows(folder: Path, number: int | None) -> list[int]:
    """The rows of a subset or, with `number`, of that subset of a probe."""
    from curation.subset import read_subset

    if number is None:
        return read_subset(folder)["row"].to_pylist()
    return json.loads((folder / "subsets.json").read_text())[number]
