"""Subsets of equal size for the probe of InstructionGPT-4 (arXiv 2308.12067): rebalanced image clusters."""

import json
from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes subsets.json, a list of row lists; samples without an image vector are skipped and counted."""
    from curation.pool.read import Pool
    from curation.signals.core.table import read_signal
    from curation.signals.core.vector_files import matrix
    from curation.signals.subset_value.producer import balanced_subsets

    pool = Pool.open(inputs["pool"])
    vectors, known = matrix(read_signal(inputs["vectors"], pool.hash), "clip_image")
    subsets = balanced_subsets(vectors, known, config["subsets"], config["size"], config["seed"])
    (out / "subsets.json").write_text(json.dumps([rows.tolist() for rows in subsets]))
    progress.say(
        f"{len(subsets)} subsets of {len(subsets[0])} samples; {int((~known).sum())} samples have no image"
    )
    return {"subsets": len(subsets), "size": len(subsets[0]), "without_image": int((~known).sum())}
