"""Draw the mini world's pool as a user's data would be: LLaVA JSON and image files; and its ground truth."""

from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes pool.json, images/ and truth.parquet; returns counts of samples, defects and sources."""
    from curation.mini.draft import Defects
    from curation.mini.pool import build_source

    progress.total(config["size"])
    return build_source(
        out,
        config["size"],
        config["seed"],
        Defects(**config["defects"]),
        inputs.get("bench"),
        progress.advance,
    )
