"""Score every sample of the pool for the 14 capabilities with the fine-tuned scorer."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/raters/capability.py",
    "curation/signals/raters/official.py",
    "curation/signals/raters/prompts",
    "curation/signals/raters/queries.py",
    "curation/signals/raters/prefix.py",
    "curation/signals/raters/trie.py",
    "curation/signals/core/batches.py",
    "curation/signals/core/table.py",
    "curation/signals/core/vector_files.py",
    "curation/signals/core/vlm.py",
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
