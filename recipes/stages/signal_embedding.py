"""Vectors of every sample's images and text from the hidden states of a model."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = ("curation/signals/embeddings.py", "curation/signals/clip.py", "curation/signals/vlm.py", "curation/signals/batches.py", "curation/signals/table.py",
        "curation/signals/vectors.py", "curation/pool", "training/models.py", "training/render.py", "training/images.py",
        "training/collate.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the embedding signal."""
    from curation.signals.embeddings import embed_pool

    return produce(embed_pool, inputs, out, progress, layers=config["layers"], state=config["state"],
                   variant=config["variant"])
