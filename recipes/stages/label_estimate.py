"""What a recipe's API teacher may cost on a pool; for its stage, and for dry runs."""

from pathlib import Path
from typing import Any


def estimate_of(config: dict[str, Any], pool: Path, task: str | None = None) -> Any:
    """The `curation.teacher.estimate.Estimate` of a teacher's settings on the pool in a folder.

    config: `teacher`, with `mode` and `batch`. task: its instructions; None: the built-in ones.
    """
    import pyarrow.parquet as pq

    from curation.teacher.estimate import estimate
    from curation.teacher.prompt import TASK, system_prompt

    table = pq.read_table(pool / "pool.parquet", columns=["n_images", "text_tokens", "byte_length"])
    server, batch = config["server"], config["mode"] == "batch"
    once = max(1, round(config["share"] * len(table)))
    return estimate(
        table,
        labels=once + round(once * config["agreement"]),
        system=system_prompt(task or TASK),
        image_tokens=server["image_tokens"],
        prices=(server["input_price"], server["output_price"]),
        share_of_price=config["batch"]["price"] if batch else 1.0,
    )
