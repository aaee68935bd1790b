"""Train scorer or styler of mmSSR (arXiv 2503.13383): the base or the seed model on the teacher's labels."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.fitting import train

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the checkpoint and split.json (training rows and held-out rows)."""
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
    from training.aspects import set_aspect
    from training.models import image_mode, load
    from training.render import Renderer
    from training.spec import FitSpec

    pool, rater, seed = Pool.open(inputs["pool"]), config["rater"], config["seed"]
    queries = load_queries(config["prompts"])
    labels = read_labels(inputs["labels"], pool.hash)
    shown, held_out = split_labels(labels, config["holdout"], seed)
    targets, counts = (scorer_targets if rater == "scorer" else styler_targets)(shown, queries)
    if rater == "scorer":
        targets = balanced(targets, shown, config["balance"], seed)
    progress.say(
        f"{rater}: {len(shown)} labelled training samples ({len(targets)} with repetitions of rare "
        f"capabilities), {len(held_out)} held out"
    )
    model, processor = load(inputs["base"])
    spec = FitSpec(**config["train"])
    mode = set_aspect(processor, image_mode(model), spec.image_aspect, spec.image_grids)
    renderer = Renderer(processor, mode, rules=spec.render_rules())
    examples = RaterExamples(pool, renderer, targets)
    # A list, because `train` reads any other sequence lazily, which skips the audit of bad examples.
    listed = [examples[i] for i in range(len(examples))]
    summary = train(config["train"], seed, inputs["base"], listed, out, progress)
    split = {"train": shown["row"].to_pylist(), "held_out": held_out["row"].to_pylist()}
    (out / "split.json").write_text(json.dumps(split))
    return {**summary, **counts, "shown": len(targets), "held_out": len(held_out)}
