"""What the stages that compute a signal have in common: open the pool, report progress and speed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def produce(
    producer: Callable[..., dict[str, Any]],
    inputs: dict[str, Path],
    out: Path,
    progress: Any,
    **settings: Any,
) -> dict[str, Any]:
    """Run a signal's producer over the pool with a model; returns its summary without seconds (they are the stage's)."""
    from curation.pool.read import Pool

    pool = Pool.open(inputs["pool"])
    summary = producer(pool, inputs["model"], out, on_progress=counter(progress), **settings)
    progress.say(
        f"{summary['samples_per_second']} samples/s, padding efficiency {summary['padding_efficiency']}"
    )
    return summary
