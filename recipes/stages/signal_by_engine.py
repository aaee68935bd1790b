"""Capability scores or styles of every sample by vLLM or a server, in place of the rater's own forward passes."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, counted, naming, spent

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the signal of `rater`, "scorer" or "styler"; returns its summary without seconds (they are the stage's)."""
    from curation.pool.read import Pool
    from curation.signals.raters.by_engine import score_capabilities_by_engine, score_styles_by_engine

    producer = {"scorer": score_capabilities_by_engine, "styler": score_styles_by_engine}[config["rater"]]
    with naming("scoring.server", f"{config['rater']}.served"):
        summary = producer(
            Pool.open(inputs["pool"]),
            out,
            prompts=config["prompts"],
            on_progress=counter(progress),
            **_asked(config, inputs),
        )
    del summary["seconds"]
    progress.say(f"{summary['samples_per_second']} samples/s{counted(summary['missing'])}")
    if config["engine"] == "server":
        progress.say(f"{config['model']}: {spent(summary)}")
    return summary


def _asked(config: dict[str, Any], inputs: dict[str, Path]) -> dict[str, Any]:
    if config["engine"] == "vllm":
        return {"engine": "vllm", "model": str(inputs["model"]), "options": config["vllm"]}
    server = config["server"]
    return {
        "engine": "server",
        "model": config["model"],
        "base_url": server["url"],
        "max_failed": server["max_failed"],
        "options": {"concurrency": server["concurrency"], **client_options(server)},
    }
