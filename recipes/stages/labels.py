"""Label a share of the pool from the mini world's ground truth: capability scores and interaction styles."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes labels.parquet and labels.json; returns the labelled share, counts and cost."""
    from curation.pool.read import Pool
    from curation.teacher.labels import label_pool
    from curation.teacher.metadata import MetadataTeacher

    noise = {key: config[key] for key in ("seed", "noise", "knows_wrong", "knows_rate")}
    sampling = {key: config[key] for key in ("share", "seed", "floor", "temper")}
    teacher = MetadataTeacher(inputs["source"] / "truth.parquet", **noise)
    pool = Pool.open(inputs["pool"])
    summary = label_pool(pool, teacher, out, **sampling, on_progress=counter(progress))
    progress.say(f"{summary['n']} samples labelled ({summary['share_labelled']:.1%} of the pool)")
    return {k: summary[k] for k in ("n", "share_labelled", "missing", "missing_scores", "cost")}
