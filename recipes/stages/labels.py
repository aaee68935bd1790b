"""Let the mini world's own record label a share of the pool: capability scores and interaction styles."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes labels.parquet and labels.json; returns the share labelled, counts and cost."""
    from curation.pool.read import Pool
    from curation.teacher.labels import label_pool
    from curation.teacher.metadata import MetadataTeacher

    pool = Pool.open(inputs["pool"])
    teacher = MetadataTeacher(
        inputs["source"] / "truth.parquet",
        seed=config["seed"],
        noise=config["noise"],
        knows_wrong=config["knows_wrong"],
        knows_rate=config["knows_rate"],
    )
    summary = label_pool(
        pool,
        teacher,
        out,
        share=config["share"],
        seed=config["seed"],
        floor=config["floor"],
        temper=config["temper"],
        on_progress=counter(progress),
    )
    progress.say(f"{summary['n']} samples labelled ({summary['share_labelled']:.1%} of the pool)")
    return {k: summary[k] for k in ("n", "share_labelled", "missing", "missing_scores", "cost")}
