"""Find the samples of a pool that repeat images or questions of the evaluation's benchmarks."""

import os
from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes leaks.parquet, leaks.html and leaks.json; returns its counts."""
    from curation.decontaminate.find import find_leaks
    from curation.decontaminate.targets import read_targets
    from curation.decontaminate.write import write_leaks
    from curation.pool.read import Pool
    from evaluation.items import open_items
    from evaluation.opened import reduced
    from evaluation.suite import load_suite

    pool, workers = Pool.open(inputs["pool"]), len(os.sched_getaffinity(0))
    suite = reduced(load_suite(config["suite"]), not_judged=config["not_judged"])
    targets = read_targets(open_items(suite, inputs["bench"]), workers=workers)
    leaks = find_leaks(pool, targets, workers=workers)
    write_leaks(pool, targets, leaks, out)
    found = leaks.summary
    progress.say(
        f"{found['leaked_samples']:,} of {len(pool):,} samples repeat {found['leaked_items']:,} of "
        f"{found['items']:,} questions of {len(targets.names)} benchmarks"
    )
    return {key: found[key] for key in ("leaked_samples", "leaked_items", "items", "suite_hash")}
