"""Answer losses of every sample under a model, with and without image and question."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the loss signal: the seed model's necessity, or under the prefix `base_` the losses of the base."""
    from curation.signals.losses import score_losses

    return produce(
        score_losses,
        inputs,
        out,
        progress,
        terms=tuple(config["terms"]),
        prefix=config["prefix"],
        max_tokens=config["max_tokens"],
    )
