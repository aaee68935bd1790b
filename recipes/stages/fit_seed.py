"""The seed model of MLLM-Selector (arXiv 2503.20502): the base, LoRA-tuned on a random share of the pool, or on what an earlier
round of the method chose."""

import json
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
    "curation/selectors/kernels.py",
    "curation/selectors/random.py",
    "curation/selectors/primitives/keys.py",
    "recipes/stages/fitting.py",
)


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint (adapters merged) and seed_rows.json."""
    from curation.pool.read import Pool
    from curation.selectors.random import select
    from curation.subset import read_subset

    pool = Pool.open(inputs["pool"])
    if "subset" in inputs:
        rows = sorted(read_subset(inputs["subset"])["row"].to_pylist())
    else:
        rows = select(pool.table, max(1, round(config["share"] * len(pool))), config["seed"]).rows.tolist()
    progress.say(
        f"seed model: {len(rows)} {'samples of the round before' if 'subset' in inputs else 'random samples'}"
    )
    summary = train(config["train"], config["seed"], inputs["base"], list(pool.samples(rows)), out, progress)
    (out / "seed_rows.json").write_text(json.dumps(rows))
    return {**summary, "samples": len(rows)}
