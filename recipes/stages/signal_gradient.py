"""Projected LoRA gradients of every sample, and how they agree with those of validation items (targeted)."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = ("curation/signals/adapters.py", "curation/signals/gradients.py", "curation/signals/losses.py",
        "curation/signals/projection.py", "curation/signals/validation.py", "curation/pool/ids.py", "curation/pool/ingest.py",
        "curation/pool/stream.py", "curation/pool/tokens.py", "curation/signals/batches.py", "curation/signals/table.py",
        "curation/signals/vectors.py", "curation/signals/vlm.py", "curation/pool/images.py", "curation/pool/read.py",
        "curation/pool/record.py", "training/adapters.py", "training/collate.py", "training/images.py", "training/models.py", "training/render.py",
        "training/templates")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the gradient signal."""
    from curation.signals.gradients import score_gradients

    return produce(score_gradients, inputs, out, progress, validation=inputs["validation"], dim=config["dim"], seed=config["seed"])
