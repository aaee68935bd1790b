"""Gradients at the adapters that a warm-up left: plain at the last, or Adam's updates at all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curation.signals.core.table import Progress
from curation.signals.gradients.producer import score_gradients

if TYPE_CHECKING:
    from curation.pool.read import Pool


def score_gradients_at_warmup(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    warmup: Path,
    validation: Path | None,
    checkpoints: Literal["last", "all"] = "last",
    adam: bool = False,
    direction: Literal["published", "clean"] = "published",
    prefix: str = "",
    dim: int = 8192,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """As `score_gradients`, at the adapters of `warmup` (a training with keep_adapters).

    checkpoints: "last" (ICONS, arXiv 2501.00654), or "all", summed with their learning rates as weights
    (LESS, arXiv 2402.04333, section 3.2). adam: the update of Adam instead of the gradient; direction: as
    LESS's released code has it, or Adam's own. Raises AdapterError where `warmup` kept no adapters.
    """
    from training.adapters import kept_adapters

    kept = kept_adapters(warmup)
    # A checkpoint at learning rate 0 has no weight in the sum.
    used = kept[-1:] if checkpoints == "last" else [one for one in kept if one.lr > 0]
    summary = score_gradients(
        pool,
        model_dir,
        out,
        validation=validation,
        dim=dim,
        seed=seed,
        prefix=prefix,
        adapters=[one.folder for one in used],
        lr_weights=[one.lr for one in used] if len(used) > 1 else [],
        adam=[one.adam for one in used] if adam else [],
        direction=direction,
        on_progress=on_progress,
    )
    steps = ", ".join(str(one.step) for one in used)
    return {**summary, "say": [f"{len(used)} of {len(kept)} checkpoints, after steps {steps}"]}
