"""CLIP score of every sample, with the vectors of its images and its text."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the clip signal."""
    from curation.signals.vectors.clip import score_clip

    return produce(score_clip, inputs, out, progress, text=config["text"])
