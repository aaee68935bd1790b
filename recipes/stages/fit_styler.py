"""Fine-tune the base (or the seed model) on the teacher's labels as the rich styler of mmSSR (arXiv 2503.13383)."""

from pathlib import Path
from typing import Any

from recipes.stages.raters import fit_rater


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint and split.json (rows trained on, rows held out)."""
    return fit_rater("styler", config, inputs, out, progress)
