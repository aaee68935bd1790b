"""Vectors of every sample's images and text from the hidden states of a model."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/vectors/clip.py",
    "curation/signals/vectors/dual_encoder.py",
    "curation/signals/vectors/embeddings.py",
    "curation/signals/core/batches.py",
    "curation/signals/core/table.py",
    "curation/signals/core/vector_files.py",
    "curation/signals/core/vlm.py",
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
