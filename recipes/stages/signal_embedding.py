"""Vectors of every sample's images and text from the hidden states of a model."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/clip.py",
    "curation/signals/dual_encoder.py",
    "curation/signals/embeddings.py",
    "curation/signals/batches.py",
    "curation/signals/table.py",
    "curation/signals/vectors.py",
    "curation/signals/vlm.py",
    "curation/pool/images.py",
    "curation/pool/read.py",
    "curation/pool/record.py",
    "training/collate.py",
    "training/images.py",
    "training/models.py",
    "training/render.py",
    "training/templates",
)
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the embedding signal."""
    from curation.signals.embeddings import embed_pool

    return produce(
        embed_pool,
        inputs,
        out,
        progress,
        layers=config["layers"],
        state=config["state"],
        variant=config["variant"],
    )
