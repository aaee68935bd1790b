"""Fine-tune the base (or the seed model) on the teacher's labels as the rich scorer of mmSSR (arXiv 2503.13383)."""

from pathlib import Path
from typing import Any

from recipes.stages.raters import fit_rater

CODE = ("training", "curation/pool", "curation/teacher/draw.py", "curation/teacher/labels.py", "curation/signals/queries.py",
        "curation/signals/prompts", "curation/signals/rater_data.py", "curation/taxonomy.py", "recipes/stages/raters.py",
        "recipes/stages/fitting.py")


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint and split.json (rows trained on, rows held out)."""
    return fit_rater("scorer", config, inputs, out, progress)
