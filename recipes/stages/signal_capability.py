"""Score every sample of the pool for the 14 capabilities with the fine-tuned scorer."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/capability.py",
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
    """Writes the capability signal."""
    from curation.signals.capability import score_capabilities

    return produce(
        score_capabilities,
        inputs,
        out,
        progress,
        prompts=config["prompts"],
        mode=config["mode"],
        batch_size=config["batch_size"],
    )
