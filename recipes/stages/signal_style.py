"""Name the interaction styles of every sample with the fine-tuned styler."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = ("curation/signals", "curation/pool", "training/models.py", "training/render.py", "training/images.py", "training/collate.py",
        "curation/taxonomy.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the style signal."""
    from curation.signals.style import score_styles

    return produce(score_styles, inputs, out, progress, prompts=config["prompts"], batch_size=config["batch_size"])
