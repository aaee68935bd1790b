"""A signal of the user's own: my_module:my_function, shard by shard."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

RESUMES = True


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the signal; a model that the recipe gives reaches the function as the parameter `model`."""
    from curation.pool.read import Pool
    from curation.signals import produce_custom

    model = {"model": str(inputs["model"])} if "model" in inputs else {}
    return produce_custom(
        config["producer"],
        Pool.open(inputs["pool"]),
        out,
        {**config["params"], **model},
        on_progress=counter(progress),
    )
