"""Evaluate one checkpoint on all benchmarks of the suite, in one process, through lmms-eval; if asked, with shuffled images too."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes scores.parquet (one row for each question) and summary.json; returns the mean over benchmarks."""
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
    found = summary["benchmarks"].values()
    mean = sum(b["value"] for b in found) / len(found)
    shuffled = [b["shuffled"] for b in found if b["shuffled"] is not None]
    also = (
        f", with shuffled images {sum(shuffled) / len(shuffled):.4f} (of {len(shuffled)})" if shuffled else ""
    )
    progress.say(
        f"mean over {len(found)} benchmarks {mean:.4f}{also}, unparsed {sum(b['unparsed'] for b in found)}"
    )
    return {
        "mean": round(mean, 6),
        "benchmarks": {k: round(b["value"], 6) for k, b in summary["benchmarks"].items()},
    }
