"""Reward, judge, complexity and quality of every answer, by a reward model, Deita's scorers and a chat model; those that are given."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, naming

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the quality signal with a column for each model that is given."""
    from curation.pool.read import Pool
    from curation.signals.quality.producer import score_quality

    models = {name: path for name, path in inputs.items() if name != "pool"}
    judge = _judge(config["judge"]) if config["judge"] else {}
    with naming("quality.judge.server", "quality.judge.model"):
        summary = score_quality(
            Pool.open(inputs["pool"]),
            out,
            kind="models",
            on_progress=counter(progress),
            max_tokens=config["max_tokens"],
            dtype=config["dtype"],
            **models,
            **judge,
        )
    del summary["seconds"]
    for name, column in summary["columns"].items():
        progress.say(
            f"{name}: mean {column['mean']}, {column['nulls']} without a grade {column['missing'] or ''}"
        )
    return summary


def _judge(section: dict[str, Any]) -> dict[str, Any]:
    server = section["server"]
    return {
        "judge_model": section["model"],
        "judge_url": server["url"],
        "max_failed": server["max_failed"],
        "judge_options": {"concurrency": server["concurrency"], **client_options(server)},
    }
