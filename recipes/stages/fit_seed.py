"""The seed model of MLLM-Selector (arXiv 2503.20502).

The base is fine-tuned with LoRA on a random share of the pool, or on the subset that an earlier round chose.
"""

import json
from pathlib import Path
from typing import Any

from recipes.stages.fitting import stored, train

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint (with merged adapters) and seed_rows.json."""
    from curation.pool.read import Pool
    from curation.selectors.random import select
    from curation.subset import read_subset

    pool = Pool.open(inputs["pool"])
    if "subset" in inputs:
        rows = sorted(read_subset(inputs["subset"])["row"].to_pylist())
    else:
        rows = select(pool.table, max(1, round(config["share"] * len(pool))), config["seed"]).rows.tolist()
    which = "samples chosen in the previous round" if "subset" in inputs else "random samples"
    progress.say(f"seed model: {len(rows)} {which}")
    examples = stored(inputs, rows, config["train"])
    summary = train(config["train"], config["seed"], inputs["base"], examples, out, progress)
    (out / "seed_rows.json").write_text(json.dumps(rows))
    return {**summary, "samples": len(rows)}
