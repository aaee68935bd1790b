"""The warm-up of LESS (arXiv 2402.04333, section 3.1): the base, LoRA-tuned on a random share of the pool. The adapter of each epoch
is kept with Adam's state; gradients are taken at these."""

from pathlib import Path
from typing import Any

from recipes.stages.fitting import train

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
    "curation/selectors/contract.py",
    "curation/selectors/kernels.py",
    "curation/selectors/random.py",
    "curation/selectors/primitives/keys.py",
    "recipes/stages/fitting.py",
)


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes adapters/<epoch>, and the checkpoint with the last of them merged."""
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
        list(pool.samples(rows)),
        out,
        progress,
        keep_adapters=True,
    )
    return {**summary, "samples": len(rows), "learning_rates": [one.lr for one in kept_adapters(out)]}
