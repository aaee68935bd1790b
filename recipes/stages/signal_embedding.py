"""Vectors of every sample's images and text from the hidden states of a model."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the embedding signal."""
    from curation.signals.vectors.embeddings import embed_pool

    return produce(
        embed_pool,
        inputs,
        out,
        progress,
        layers=config["layers"],
        state=config["state"],
        variant=config["variant"],
    )
