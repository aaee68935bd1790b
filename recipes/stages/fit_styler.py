"""Fine-tune the base (or the seed model) on the teacher's labels as the rich styler of mmSSR (arXiv 2503.13383)."""

from pathlib import Path
from typing import Any

from recipes.stages.raters import fit_rater

CODE = (
    "training/adapters.py",
    "training/collate.py",
    "training/distributed.py",
    "training/fit.py",
    "training/images.py",
    "training/launch.py",
    "training/models.py",
    "training/parent_death.py",
    "training/plan.py",
    "training/rank.py",
    "training/render.py",
    "training/spec.py",
    "training/trainer.py",
    "training/templates",
    "training/deepspeed",
    "curation/pool/images.py",
    "curation/pool/read.py",
    "curation/pool/record.py",
    "curation/signals/raters/prompts",
    "curation/signals/raters/queries.py",
    "curation/signals/raters/targets.py",
    "curation/taxonomy.py",
    "curation/teacher/draw.py",
    "curation/teacher/labels.py",
    "curation/teacher/rubric.py",
    "recipes/stages/raters.py",
    "recipes/stages/fitting.py",
)


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint and split.json (rows trained on, rows held out)."""
    return fit_rater("styler", config, inputs, out, progress)
