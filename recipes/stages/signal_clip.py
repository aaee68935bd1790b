"""CLIP score of every sample, with the vectors of its images and its text."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/clip.py",
    "curation/signals/dual_encoder.py",
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
    """Writes the clip signal."""
    from curation.signals.clip import score_clip

    return produce(score_clip, inputs, out, progress, text=config["text"])
