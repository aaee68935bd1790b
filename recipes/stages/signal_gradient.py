"""Projected LoRA gradients of every sample, and how they agree with those of validation items (targeted)."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = ("curation/signals/gradients.py", "curation/signals/projection.py", "curation/signals/vlm.py", "curation/signals/batches.py",
        "curation/signals/table.py", "curation/signals/vectors.py", "curation/pool", "training/models.py", "training/render.py",
        "training/images.py", "training/collate.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the gradient signal."""
    from curation.signals.gradients import score_gradients

    return produce(score_gradients, inputs, out, progress, validation=inputs["validation"], dim=config["dim"], seed=config["seed"])
