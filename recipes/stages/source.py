"""Draw the mini world's pool as a user would bring one: LLaVA JSON, image files, and the truth beside them."""

from pathlib import Path
from typing import Any

CODE = (
    "curation/mini/art.py",
    "curation/mini/atom.py",
    "curation/mini/build_assets.py",
    "curation/mini/makers.py",
    "curation/mini/scene.py",
    "curation/mini/assets",
    "curation/mini/names.yaml",
    "curation/taxonomy.py",
    "curation/mini/draft.py",
    "curation/mini/pool.py",
    "curation/mini/sources.yaml",
)


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
