"""The figure that a selector's docstring gives for its other variants, held against the frozen table."""

import json
import sys

import pyarrow.parquet as pq
from parity import FOLDER, META, Method, check_frozen

from curation.selectors.registry import get_selector


def check_variants(method: Method, *names: str) -> None:
    """The frozen table holds; the docstring gives the Jaccard index of each variant, to 2 decimals."""
    check_frozen(method)
    for name in names:
        said = f"Jaccard {agreement(method, name):.2f}"
        select = get_selector(method.address)
        text = " ".join((sys.modules[select.__module__].__doc__ or "").split())
        assert said in text, f"{method.name}: {name} has {said} on its frozen table"


def agreement(method: Method, variant: str) -> float:
    """Jaccard index of the picks of `variant` and the published ones, on the frozen table."""
    table = pq.read_table(FOLDER / f"{method.name}.parquet")
    meta = json.loads(table.schema.metadata[META])
    picks = set(table.filter(table["published"].is_valid())["row"].to_pylist())
    table = table.drop_columns(["published"])
    given = {**method.params, "variant": variant}
    found = set(get_selector(method.address)(table, len(picks), meta["seed"], **given).rows.tolist())
    return len(found & picks) / len(found | picks)
