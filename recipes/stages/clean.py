"""Take out of a pool what its trainings should not meet: leaks, what the base cannot read whole, copies."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.stages.counting import counter

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.pool.read import Pool

RESUMES = True
PARTS = ".preflight"


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes a pool of the samples that stay; returns how many were taken out at each step, by reason.

    A sample with several reasons has the first one of the steps. Copies are looked for among what is left, so
    that the one of a group which stays is one that a training reads.
    """
    from curation.pool.derive import derive
    from curation.pool.read import Pool
    from curation.preflight import derived

    pool = Pool.open(inputs["pool"])
    left, lengths = _Left.of(pool), None
    if "leaks" in inputs:
        found = json.loads((inputs["leaks"] / "leaks.json").read_text())
        compared = {key: found[key] for key in ("suite", "suite_hash", "data", "missing", "rules")}
        left.drop("decontaminate", _leaked(inputs["leaks"]), **compared)
    if config["measured"]:
        lengths = _measured(config, inputs["processor"], out, left, progress)
    if config["dedup"] != "off":
        left.drop("dedup", _copies(config["dedup"], left), rule=config["dedup"])
    if lengths is None:
        info = derive(pool, left.dropped, out, note=left.notes)
    else:
        info = derived(pool, lengths, left.dropped, out, left.notes)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    for line in _lines(left):
        progress.say(line)
    progress.say(f"{info['n']:,} of {len(pool):,} samples stay")
    return {"samples": info["n"], **{step: note["dropped"] for step, note in left.notes.items()}}


@dataclass
class _Left:
    """What is left of a pool. `stays`: bool[n]; `notes`: what pool.json says of each step."""

    pool: "Pool"
    stays: Any
    tables: list["pa.Table"] = field(default_factory=list)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, pool: "Pool") -> "_Left":
        import numpy as np

        return cls(pool, np.ones(len(pool), bool))

    def drop(self, step: str, table: "pa.Table", **note: Any) -> None:
        """Take out the rows of `table` (row, reason, detail; each row once) that are still there."""
        import pyarrow as pa

        from curation.pool.derive import counted

        table = table.filter(pa.array(self.stays[table["row"].to_numpy()]))
        self.stays[table["row"].to_numpy()] = False
        self.tables.append(table)
        self.notes[step] = counted(self.pool, table) | note

    @property
    def dropped(self) -> "pa.Table":
        import pyarrow as pa

        schema = pa.schema([("row", pa.int32()), ("reason", pa.string()), ("detail", pa.string())])
        return pa.concat_tables([table.cast(schema) for table in self.tables] or [schema.empty_table()])

    def as_pool(self) -> tuple["Pool", Any]:
        """(the samples that are left as a pool that is not on disk, their rows in the whole one)."""
        import numpy as np
        import pyarrow as pa

        from curation.pool.read import Pool

        whole, rows = self.pool, np.flatnonzero(self.stays)
        table = whole.table.filter(pa.array(self.stays))
        return Pool(whole.folder, table, whole.info, whole.files, whole.images), rows


def _leaked(folder: Path) -> "pa.Table":
    """row, reason, detail of the samples that repeat a question, each once."""
    import pyarrow.parquet as pq

    from curation.decontaminate.find import Leaks
    from curation.decontaminate.write import to_drop

    return to_drop(Leaks(pq.read_table(folder / "leaks.parquet"), {}))


def _measured(config: dict[str, Any], processor: Path, out: Path, left: _Left, progress: Any) -> "pa.Table":
    """The tokens of every sample; those that no training reads are taken out. Raises PoolError."""
    import pyarrow as pa

    from curation.pool.errors import PoolError
    from curation.preflight import counts, to_drop
    from training.preflight import Limit, measure
    from training.render import RenderRules
    from training.token_store import RendererOf

    own = config["measured"]
    rules = RenderRules(*(own[key] for key in ("system", "image_first", "loss_tokens", "loss_turns")))
    renderer = RendererOf(processor, rules, aspect=own["image_aspect"], grids=own["image_grids"])
    limit = Limit(own["max_length"], "truncate" if own["policy"] == "truncate" else "drop")
    lengths = measure(
        left.pool, renderer, out / PARTS, limit, workers=config["workers"], on_progress=counter(progress)
    )
    still = pa.array(left.stays)
    found = counts(left.pool.table["source"].filter(still), lengths.filter(still), limit)
    if own["policy"] == "error" and (long := found["dropped"].get("too_long")):
        raise PoolError(
            f"{long:,} samples have more than train.max_length {limit.max_length:,} tokens, and "
            "train.too_long is error: let it or pool.over_length be drop or truncate"
        )
    left.drop("preflight", to_drop(lengths))
    left.notes["preflight"] = found
    return lengths


def _copies(rule: dict[str, Any], left: _Left) -> "pa.Table":
    """row, reason, detail of the samples that repeat another one that is left, which stays."""
    import pyarrow as pa

    from curation.dedup.clusters import Rule
    from curation.dedup.find import find_duplicates
    from curation.dedup.signal import to_drop

    pool, rows = left.as_pool()
    found = find_duplicates(pool, Rule(**rule), workers=len(os.sched_getaffinity(0)))
    again = to_drop(pool, found.table)
    return again.set_column(0, "row", pa.array(rows[again["row"].to_numpy()], pa.int32()))


def _lines(left: _Left) -> Iterator[str]:
    from curation.preflight import lines

    for step, note in left.notes.items():
        if step == "preflight":
            yield from lines(note)
        else:
            yield f"{step}: {sum(note['dropped'].values()):,} samples taken out"
