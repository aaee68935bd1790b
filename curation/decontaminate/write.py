"""Files of a search for leaks: leaks.parquet, alike.parquet, leaks.html and, last, leaks.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from curation.decontaminate.find import KINDS, Leaks
from curation.decontaminate.page import page
from curation.decontaminate.targets import Targets

if TYPE_CHECKING:
    from curation.pool.read import Pool

REASON = "leak"
"""Why a dropped sample is in the quarantine of the pool that is left."""


def write_leaks(pool: "Pool", targets: Targets, leaks: Leaks, out: Path) -> None:
    """Write the four files; leaks.json means that the others are whole."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "leaks.json").unlink(missing_ok=True)
    for name, table in (("leaks.parquet", leaks.table), ("alike.parquet", leaks.alike)):
        with atomic.replacing(out / name) as temporary:
            pq.write_table(table.drop_columns(["place"]), temporary, compression="zstd")
    atomic.write_text(out / "leaks.html", page(pool, targets, leaks))
    atomic.write_json(out / "leaks.json", leaks.summary)


def to_drop(leaks: Leaks, kinds: Sequence[str] = KINDS) -> pa.Table:
    """row int32, reason, detail of each sample with a leak of these kinds, by its first pair."""
    table = leaks.table
    wanted = np.isin(table["kind"].to_numpy(), list(kinds))
    rows = table["row"].to_numpy()[wanted]
    distinct, first = np.unique(rows, return_index=True)
    chosen = table.take(pa.array(np.flatnonzero(wanted)[first]))
    details = [
        f"{pair['kind']}: {pair['benchmark']} {pair['item']} ({pair['detail']})"
        for pair in chosen.to_pylist()
    ]
    return pa.table(
        {
            "row": pa.array(distinct, pa.int32()),
            "reason": pa.array([REASON] * len(distinct), pa.string()),
            "detail": pa.array(details, pa.string()),
        }
    )


def drop_leaks(pool: "Pool", leaks: Leaks, out: Path, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """The pool without the samples that have a leak of these kinds; returns its pool.json."""
    from curation.pool.derive import counted, derive

    note = {name: leaks.summary[name] for name in ("suite", "suite_hash", "data", "missing", "rules")}
    drop = to_drop(leaks, kinds)
    note = counted(pool, drop) | note | {"kinds": list(kinds)}
    return derive(pool, drop, out, note={"decontaminate": note})
