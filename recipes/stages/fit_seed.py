"""The seed model of MLLM-Selector (arXiv 2503.20502): the base, LoRA-tuned on a random share of the pool."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.fitting import train

CODE = ("training", "curation/pool", "curation/selectors/random.py", "curation/selectors/primitives/keys.py", "recipes/stages/fitting.py")


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint (adapters merged) and seed_rows.json."""
    from curation.pool.read import Pool
    from curation.selectors.random import select

    pool = Pool.open(inputs["pool"])
    rows = select(pool.table, max(1, round(config["share"] * len(pool))), config["seed"]).rows
    progress.say(f"seed model: {len(rows)} random samples ({config['share']:.0%} of the pool)")
    summary = train(config["train"], config["seed"], inputs["base"], list(pool.samples(rows.tolist())), out, progress)
    (out / "seed_rows.json").write_text(json.dumps(rows.tolist()))
    return {**summary, "samples": len(rows)}
