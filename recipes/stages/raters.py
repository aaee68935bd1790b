"""What the scorer's and the styler's training have in common: labels split by sample, targets as branches."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.fitting import train


def fit_rater(
    kind: str, config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any
) -> dict[str, Any]:
    """Fine-tune `base` as "scorer" or "styler"; split.json lists the rows trained on and those held out."""
    from curation.pool.read import Pool
    from curation.signals.raters.queries import load_queries
    from curation.signals.raters.targets import (
        RaterExamples,
        balanced,
        scorer_targets,
        split_labels,
        styler_targets,
    )
    from curation.teacher.labels import read_labels
    from training.models import image_mode, load
    from training.render import Renderer

    pool = Pool.open(inputs["pool"])
    queries = load_queries(config["prompts"])
    shown, held_out = split_labels(
        read_labels(inputs["labels"], pool.hash), config["holdout"], config["seed"]
    )
    targets, counts = (scorer_targets if kind == "scorer" else styler_targets)(shown, queries)
    if kind == "scorer":
        targets = balanced(targets, shown, config["balance"], config["seed"])
    progress.say(
        f"{kind}: {len(shown)} labelled samples to train on ({len(targets)} with rare capabilities repeated), "
        f"{len(held_out)} held out"
    )
    model, processor = load(inputs["base"])
    examples = RaterExamples(pool, Renderer(processor, image_mode(model)), targets)
    summary = train(
        config["train"],
        config["seed"],
        inputs["base"],
        [examples[i] for i in range(len(examples))],
        out,
        progress,
    )
    (out / "split.json").write_text(
        json.dumps({"train": shown["row"].to_pylist(), "held_out": held_out["row"].to_pylist()})
    )
    return {**summary, **counts, "shown": len(targets), "held_out": len(held_out)}
