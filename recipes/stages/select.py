"""Choose a subset: signals and pool as columns, one selector, one budget, one seed."""

from pathlib import Path
from typing import Any

CODE = ("curation/subset.py", "curation/selectors/contract.py", "curation/signals/table.py", "curation/pool/read.py")


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes subset.parquet and manifest.json; returns the budget in samples and tokens, and the selector's notes."""
    from curation.pool.read import Pool
    from curation.selectors import get_selector
    from curation.signals.table import join, read_metadata, read_signal
    from curation.subset import write_subset
    from recipes.schema import budget_rows

    pool = Pool.open(inputs["pool"])
    folders = {name.removeprefix("signal_"): path for name, path in inputs.items() if name.startswith("signal_")}
    columns = join(pool.table, [read_signal(path, pool.hash) for path in folders.values()])
    budget = budget_rows(config["budget"], len(pool))
    selection = get_selector(config["selector"])(columns, budget, config["seed"], **config["params"])
    hashes = {name: read_metadata(path)["identity"] for name, path in folders.items()}
    manifest = write_subset(out, pool.table, pool.hash, selection, selector=config["selector"], params=config["params"],
                            seed=config["seed"], signal_hashes=hashes)
    progress.say(f"{config['selector']}: {len(selection.rows)} of {len(pool)} samples, notes {selection.notes}")
    return {**manifest["budget"], "ids_sha256": manifest["ids_sha256"], "notes": selection.notes}
