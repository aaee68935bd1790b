"""Projected LoRA gradients of every sample at checkpoints of a warm-up, and how they agree with those of validation items (targeted)."""

from pathlib import Path
from typing import Any

from recipes.stages.scoring import produce

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the gradient signal: plain gradients at the last checkpoint, or Adam's steps at all of them, by learning rate."""
    from curation.signals.gradients.producer import score_gradients
    from training.adapters import kept_adapters

    kept = kept_adapters(inputs["warmup"])
    used = (
        kept[-1:] if config["checkpoints"] == "last" else [one for one in kept if one.lr > 0]
    )  # the others weigh nothing
    progress.say(
        f"{len(used)} of {len(kept)} checkpoints, after steps {', '.join(str(one.step) for one in used)}"
    )
    return produce(
        score_gradients,
        inputs,
        out,
        progress,
        validation=inputs["validation"],
        dim=config["dim"],
        seed=config["seed"],
        prefix=config["prefix"],
        adapters=[one.folder for one in used],
        lr_weights=[one.lr for one in used] if len(used) > 1 else [],
        adam=[one.adam for one in used] if config["adam"] else [],
    )
