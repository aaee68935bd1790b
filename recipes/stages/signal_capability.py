"""Score every sample of the pool for the 14 capabilities with the fine-tuned scorer."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = ("curation/signals", "curation/pool", "training/models.py", "training/render.py", "training/images.py", "training/collate.py",
        "curation/taxonomy.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the capability signal."""
    from curation.signals.capability import score_capabilities

    return produce(score_capabilities, inputs, out, progress, prompts=config["prompts"], batch_size=config["batch_size"])
