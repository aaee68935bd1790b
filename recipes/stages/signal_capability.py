"""Score every sample of the pool for the 14 capabilities with the fine-tuned scorer."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the capability signal."""
    from curation.signals.raters.capability import score_capabilities

    return produce(
        score_capabilities,
        inputs,
        out,
        progress,
        prompts=config["prompts"],
        mode=config["mode"],
        batch_size=config["batch_size"],
    )
