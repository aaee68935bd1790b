"""The token store of a pool: each sample tokenised once, for all arms, seeds and models trained on it."""

import time
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the store (training/token_store) in `store/`; an interrupted run continues with its next shard.

    Rejected samples are counted by reason; each training counts those of its own rows again.
    """
    from curation.pool.read import Pool
    from training.render import RenderRules
    from training.token_store import PoolSource, RendererOf, write

    # Not by way of FitSpec: a new field there must not tokenise every pool again.
    rules = RenderRules(*(config[key] for key in ("system", "image_first", "loss_tokens", "loss_turns")))
    renderer = RendererOf(
        inputs["processor"], rules, aspect=config["image_aspect"], grids=config["image_grids"]
    )
    pool, count, started, kept = Pool.open(inputs["pool"]), counter(progress), 0.0, 0

    def report(done: int, total: int) -> None:
        nonlocal started, kept
        if not started:  # the first report, before anything is written in this run
            started, kept = time.perf_counter(), done
        count(done, total)

    store = write(PoolSource(pool), renderer, out / "store", workers=config["workers"], on_progress=report)
    rate = (len(store) - kept) / (time.perf_counter() - started)
    rejected = store.examples(range(len(store))).counts
    tokens, image_tokens = int(store.lengths.sum(dtype=int)), int(store.image_tokens.sum(dtype=int))
    if rejected and pool.info.get("preflight", {}).get("renderer") == store.info.renderer:
        progress.say(
            f"{sum(rejected.values()):,} samples are rejected that the pre-flight of the pool found sound: "
            "their images have changed since"
        )
    progress.say(
        f"{len(store):,} samples, {tokens:,} tokens ({image_tokens:,} of images), "
        f"{sum(rejected.values())} rejected{f' {rejected}' if rejected else ''}, {rate:.0f} samples/s"
    )
    return {
        "samples": len(store),
        "tokens": tokens,
        "image_tokens": image_tokens,
        "rejected": rejected,
        "samples_per_second": round(rate, 1),
    }
