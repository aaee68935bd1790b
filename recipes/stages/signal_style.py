"""Name the interaction styles of every sample with the fine-tuned styler."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the style signal."""
    from curation.signals.raters.style import score_styles

    return produce(
        score_styles,
        inputs,
        out,
        progress,
        prompts=config["prompts"],
        mode=config["mode"],
        threshold=config["threshold"],
        batch_size=config["batch_size"],
    )
