"""The value that a regressor predicts for every sample, from what trainings on subsets of known content scored."""

import json
from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the value signal and fit.json; says how well a subset that was left out is predicted."""
    from statistics import fmean

    from curation.pool.read import Pool
    from curation.signals.core.table import join, read_signal
    from curation.signals.subset_value.producer import score_subset_value

    pool = Pool.open(inputs["pool"])
    columns = join(
        pool.table,
        [read_signal(path, pool.hash) for name, path in inputs.items() if name.startswith("signal_")],
    )
    subsets = json.loads((inputs["subsets"] / "subsets.json").read_text())
    summaries = [
        json.loads((path / "summary.json").read_text())["benchmarks"] for path in inputs["evaluates"]
    ]
    labels = [fmean(benchmark["value"] for benchmark in found.values()) for found in summaries]
    summary = score_subset_value(pool, columns, subsets, labels, out, **config)
    warning = "" if summary["loso_r2"] > 0 else " (WARNING: not above 0, so the values are as good as random)"
    progress.say(
        f"{len(labels)} probes from {min(labels):.4f} to {max(labels):.4f}; leave-one-subset-out R2 {summary['loso_r2']:.3f}{warning}"
    )
    return summary
