"""Evaluate a checkpoint on all benchmarks of the suite with lmms-eval, also with shuffled images if asked."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes scores.parquet (one row per question) and summary.json; returns the mean over benchmarks."""
    from evaluation.harness import evaluate

    summary = evaluate(
        inputs["model"],
        config["suite"],
        bench_dir=inputs["bench"],
        out=out,
        batch_size=config["batch_size"],
        limit=config["limit"],
        shuffled=config["shuffled"],
        on_progress=counter(progress),
    )
    benchmarks = summary["benchmarks"].values()
    mean = sum(b["value"] for b in benchmarks) / len(benchmarks)
    shuffled = [b["shuffled"] for b in benchmarks if b["shuffled"] is not None]
    also = (
        f", with shuffled images {sum(shuffled) / len(shuffled):.4f} (over {len(shuffled)})"
        if shuffled
        else ""
    )
    unparsed = sum(b["unparsed"] for b in benchmarks)
    progress.say(
        f"mean over {len(benchmarks)} benchmarks {mean:.4f}{also}, {unparsed} answers could not be parsed"
    )
    return {
        "mean": round(mean, 6),
        "benchmarks": {k: round(b["value"], 6) for k, b in summary["benchmarks"].items()},
    }
