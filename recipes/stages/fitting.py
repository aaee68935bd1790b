"""Shared by the stages that train: from a recipe's settings to a FitSpec, examples, progress and summary."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

SAY_SECONDS = 60.0
"""A training says its loss and speed at most this often."""


def stored(inputs: dict[str, Path], rows: Sequence[int], config: dict[str, Any]) -> Any:
    """The examples (StoredExamples) of these rows of the pool, from the token store of stage `tokens`.

    `config`: the training's section of the recipe. Raises RenderError for an example that is too long, if
    that is an error.
    """
    from curation.pool.read import Pool
    from training.spec import FitSpec
    from training.token_store import TokenStore

    pool, spec = Pool.open(inputs["pool"]), FitSpec(**config)
    # The engine has verified the files. The images may have moved with the pool since they were written.
    store = TokenStore.open(inputs["tokens"] / "store", source=pool.hash, images=pool.images, verify=False)
    return store.examples(rows, spec.max_length, spec.too_long)


def train(
    config: dict[str, Any],
    seed: int,
    base: Path,
    examples: Any,
    out: Path,
    progress: Any,
    *,
    keep_adapters: bool = False,
) -> dict[str, Any]:
    """Train `base` on `examples` into `out` with a recipe's training section.

    Returns the stage's summary: steps, samples, tokens, what was dropped, losses, and the meters of the whole
    training (training/meters.py).
    """
    from training.launch import launch
    from training.spec import FitSpec

    spec = FitSpec(**{**config, "seed": seed})
    count = counter(progress)

    said = time.monotonic()

    def report(step: int, steps: int, message: str) -> None:
        nonlocal said
        if step == 0:  # what the training has doubts about
            progress.say(message)
        elif time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            progress.say(f"step {step} of {steps}: {message}")
        count(step, steps)

    result = launch(spec, base, examples, out, report, keep_adapters=keep_adapters)
    losses = result["losses"]
    tail = losses[-max(1, len(losses) // 10) :]  # the mean of the last tenth, as single steps are noisy
    progress.say(
        f"{result['steps']} steps of {spec.batch_size}, {result['samples_seen']} samples seen, "
        f"{result['samples_per_second']:.0f} samples/s, last loss {sum(tail) / len(tail):.3f}"
    )
    return {
        "steps": result["steps"],
        "samples_seen": result["samples_seen"],
        "tokens": result["tokens"],
        "dropped": result["dropped"],
        "samples_per_second": round(result["samples_per_second"], 1),
        "first_loss": round(losses[0], 4),
        "last_loss": round(sum(tail) / len(tail), 4),
        "meters": result["meters"],
    }
