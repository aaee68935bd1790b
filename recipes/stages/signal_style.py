"""Name the interaction styles of every sample with the fine-tuned styler."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/capability.py",
    "curation/signals/style.py",
    "curation/signals/official.py",
    "curation/signals/prompts",
    "curation/signals/queries.py",
    "curation/signals/shared.py",
    "curation/signals/trie.py",
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
    "curation/taxonomy.py",
)
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the style signal."""
    from curation.signals.style import score_styles

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
