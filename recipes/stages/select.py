"""Select a subset: signals and pool as columns, one selector, one budget, one seed."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes subset.parquet and manifest.json; returns the budget in samples and tokens, and notes."""
    import numpy as np
    import pyarrow as pa

    from curation.pool.read import Pool
    from curation.selectors.budget import choose
    from curation.signals.core.table import join, read_metadata, read_signal
    from curation.subset import write_subset

    pool = Pool.open(inputs["pool"])
    folders = {
        name.removeprefix("signal_"): path for name, path in inputs.items() if name.startswith("signal_")
    }
    columns = join(pool.table, [read_signal(path, pool.hash) for path in folders.values()])
    for column, rows in _memberships(inputs):
        columns = columns.append_column(column, pa.array(np.isin(columns["row"].to_numpy(), rows)))
    module, _, name = config["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    if "costs" in config:
        # By name, as a selector: other selections must not depend on the code that counts FLOPs.
        spending = importlib.import_module(config["costs"]["by"])
        selection = spending.select_in_compute(function, columns, config, inputs)
    else:
        selection = choose(function, columns, config["budget"], config["seed"], config["params"])
    hashes = {name: read_metadata(path)["identity"] for name, path in folders.items()}
    manifest = write_subset(
        out,
        pool.table,
        pool.hash,
        selection,
        selector=config["selector"],
        params=config["params"],
        seed=config["seed"],
        signal_hashes=hashes,
        extra={"budget_asked": config["budget"]},
    )
    progress.say(
        f"{config['selector']}: {len(selection.rows)} of {len(pool)} samples, notes {selection.notes}"
    )
    return {**manifest["budget"], "ids_sha256": manifest["ids_sha256"], "notes": selection.notes}


def _memberships(inputs: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """(column, rows that it marks): another arm's subset, the training rows of the seed model."""
    from curation.subset import read_subset

    if "reference" in inputs:
        yield "in_reference", read_subset(inputs["reference"])["row"].to_pylist()
    if "seed_rows" in inputs:
        yield "in_seed", json.loads((inputs["seed_rows"] / "seed_rows.json").read_text())
