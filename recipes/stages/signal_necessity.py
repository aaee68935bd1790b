"""Answer-only loss of every sample under the seed model: the necessity of MLLM-Selector (arXiv 2503.20502)."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = ("curation/signals", "curation/pool", "training/models.py", "training/render.py", "training/images.py", "training/collate.py",
        "curation/taxonomy.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the loss signal."""
    from curation.signals.losses import score_losses

    return produce(score_losses, inputs, out, progress, max_tokens=config["max_tokens"])
