"""Evaluate one checkpoint on all benchmarks of the suite, in one process, through lmms-eval."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

CODE = ("evaluation/harness.py", "evaluation/model.py", "evaluation/lmms_model.py", "evaluation/decode.py", "evaluation/extract.py",
        "evaluation/answer_text.py", "evaluation/journal.py", "evaluation/stats.py", "evaluation/suite.py", "evaluation/tasks", "evaluation/suites",
        "training/models.py", "training/render.py", "training/images.py", "training/collate.py")
RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes scores.parquet (one row for each question) and summary.json; returns the mean over benchmarks."""
    from evaluation.harness import evaluate

    summary = evaluate(inputs["model"], config["suite"], bench_dir=inputs["bench"], out=out, batch_size=config["batch_size"],
                       limit=config["limit"], on_progress=counter(progress))
    values = [b["value"] for b in summary["benchmarks"].values()]
    mean = sum(values) / len(values)
    progress.say(f"mean over {len(values)} benchmarks {mean:.4f}, unparsed {sum(b['unparsed'] for b in summary['benchmarks'].values())}")
    return {"mean": round(mean, 6), "benchmarks": {k: round(b["value"], 6) for k, b in summary["benchmarks"].items()}}
