"""Name the interaction styles of every sample with the fine-tuned styler."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

CODE = (
    "curation/signals/raters/capability.py",
    "curation/signals/raters/style.py",
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
