"""The warm-up training of LESS (arXiv 2402.04333, section 3.1).

The base is fine-tuned with LoRA on a random share of the pool. The adapter of each epoch is kept together
with Adam's state; gradients are computed at these.
"""

from pathlib import Path
from typing import Any

from recipes.stages.fitting import stored, train

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes adapters/<epoch>, and the checkpoint with the last adapter merged."""
    from curation.pool.read import Pool
    from curation.selectors.random import select
    from training.adapters import kept_adapters

    pool = Pool.open(inputs["pool"])
    rows = select(pool.table, max(1, round(config["share"] * len(pool))), config["seed"]).rows.tolist()
    progress.say(f"warm-up: {len(rows)} random samples")
    summary = train(
        config["train"],
        config["seed"],
        inputs["base"],
        stored(inputs, rows, config["train"]),
        out,
        progress,
        keep_adapters=True,
    )
    return {**summary, "samples": len(rows), "learning_rates": [one.lr for one in kept_adapters(out)]}
