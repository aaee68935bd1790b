"""Score the answers of a checkpoint to all benchmarks of the suite; no model is asked."""

from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes scores.parquet (one row per question) and summary.json; returns the mean over benchmarks.

    The mean is over the scores in 0..1 of their scales, None if a benchmark is missing.
    """
    from evaluation.answering import Settings
    from evaluation.harness import score_suite
    from evaluation.judging import read_judgements
    from evaluation.opened import open_suite
    from evaluation.suite import load_suite

    suite = load_suite(config["suite"])
    opened = open_suite(suite, inputs["bench"], limit=config["limit"], not_judged=config["not_judged"])
    settings = Settings(batch_size=config["batch_size"], max_batch_tokens=config["max_batch_tokens"])
    judgements = read_judgements(inputs["judgements"]) if "judgements" in inputs else {}
    summary = score_suite(opened, [inputs["answers"]], judgements, out, settings)
    entries = {name: entry for name, entry in summary["benchmarks"].items() if "missing" not in entry}
    for name, entry in summary["benchmarks"].items():
        if "missing" in entry:
            progress.say(f"{name}: no value: {entry['missing']}")
    scales = {benchmark.name: benchmark.scale for benchmark in opened.suite}
    whole = len(entries) == len(opened.suite)
    mean = (
        sum(entry["value"] / scales[name] for name, entry in entries.items()) / len(entries)
        if whole
        else None
    )
    shuffled = [e["shuffled"] / scales[name] for name, e in entries.items() if e["shuffled"] is not None]
    also = (
        f", with shuffled images {sum(shuffled) / len(shuffled):.4f} (over {len(shuffled)})"
        if shuffled
        else ""
    )
    unparsed, truncated = (sum(e[key] for e in entries.values()) for key in ("unparsed", "truncated"))
    progress.say(
        f"mean over {len(entries)} benchmarks {'missing' if mean is None else f'{mean:.4f}'}{also}, "
        f"{unparsed} answers could not be parsed, {truncated} were cut"
    )
    return {
        "mean": None if mean is None else round(mean, 6),
        "benchmarks": {name: round(entry["value"], 6) for name, entry in entries.items()},
    }
