"""Draw the mini world's benchmarks, one for each capability: held-out items in local Parquet files."""

from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes `<capability>.parquet` and bench.json; returns the number of items and the mean chance level."""
    from curation.mini.bench import build_bench
    from curation.taxonomy import CAPABILITIES

    progress.total(len(CAPABILITIES))
    summary = build_bench(out, config["items"], config["seed"], progress.advance)
    chance = sum(b["chance"] for b in summary.values()) / len(summary)
    return {
        "benchmarks": len(summary),
        "items": sum(b["n"] for b in summary.values()),
        "chance": round(chance, 4),
    }
