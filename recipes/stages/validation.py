"""Validation items for targeted selectors, as a pool: the user's own, or drawn from splits of benchmarks."""

from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes pool.json, pool.parquet and, for benchmarks, items.json and images/; returns counts by task."""
    from curation.pool.ingest import build_pool
    from curation.pool.read import Pool
    from curation.signals.gradients.validation import tasks_of

    counts: dict[str, Any] = {}
    if config["kind"] == "llava":
        source, images = inputs["source"], inputs["images"]
    else:
        from evaluation.opened import open_suite
        from evaluation.validation_items import FILE, write_items

        opened = open_suite(config["suite"], inputs["mirror"])
        counts = write_items(opened, out, items=config["items"], seed=config["seed"])
        source, images = out / FILE, out
    build_pool(source, images, out, max_bad_fraction=0.0)
    tasks = tasks_of(list(Pool.open(out).samples()))
    by_task = {name: sum(map(len, own.values())) for name, own in tasks.items()}
    progress.say(f"{sum(by_task.values())} validation items of {len(by_task)} tasks")
    if missing := sum(own["without_reference"] for own in counts.values()):
        progress.say(f"{missing} questions were passed over: their scorer accepts no form of the reference")
    return {"items": by_task, "parts": counts}
