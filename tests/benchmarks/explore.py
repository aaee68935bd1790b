"""The page of a subset at the size of real pools: seconds, memory, and bytes of the page.

    OMP_NUM_THREADS=1 python tests/benchmarks/explore.py --records 2600000 --columns 30

Generates a LLaVA list (about 900 bytes a record) with images, a pool, a random subset of 10 %, a signal with
`--columns` numbers and styles for each sample, and copies: every fourth sample has one. Then it writes the
page in a process of its own, whose figures include all imports.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from export_formats import ROOT, run, write_source

sys.path.insert(0, str(ROOT))


def write_signals(folder: Path, columns: int) -> None:
    """signals/scores and dups of the pool in `folder`."""
    import pyarrow as pa

    from curation.pool.read import read_info
    from curation.signals.core.table import write_signal

    info = read_info(folder / "pool", ("n", "hash"))
    rng, rows = np.random.default_rng(0), np.arange(info["n"], dtype=np.int32)
    styles = pa.array([["word"], ["yes_no", "word"], ["coordinate"]]).take(pa.array(rows % 3))
    scores = {f"score_{number}": pa.array(rng.random(len(rows), np.float32)) for number in range(columns)}
    group = np.where(rows % 4 == 1, rows - 1, rows)
    first = group == rows
    kind = pa.array(np.where(rows % 4 < 2, "near_image", "none"), mask=rows % 4 >= 2)
    dups = {"dup_group": pa.array(group), "dup_kind": kind, "dup_first": pa.array(first)}
    for name, values in (("signals/scores", scores | {"styles": styles}), ("dups", dups)):
        table = pa.table({"row": pa.array(rows)} | values)
        write_signal(
            folder / name,
            {"pool_hash": info["hash"], "producer": name},
            len(rows),
            lambda span, advance, table=table: table.slice(span.start, len(span)),
            shard_rows=1 << 18,
        )


def main() -> None:
    """Print one line for each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_600_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--samples", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="explore-") as name:
        folder = Path(name)
        write_source(folder, given.records)
        pool, subset, page = folder / "pool", folder / "subset", folder / "page.html"
        steps = {
            "build": (
                "curation.pool",
                "build",
                folder / "data.json",
                "--images",
                folder / "images",
                "--out",
                pool,
            ),
            "select": ("curation.select", "random", "--pool", pool, "--budget", "10%", "--out", subset),
            "explore": (
                *("curation.explore", subset, "--pool", pool, "--signals", folder / "signals"),
                *("--dups", folder / "dups", "--samples", given.samples, "--workers", 1, "--out", page),
            ),
        }
        for step, arguments in steps.items():
            if step == "explore":
                write_signals(folder, given.columns)
            cpu, wall, peak = run(*arguments)
            print(f"{step:8} {cpu:6.1f} CPU s {wall:6.1f} s {peak:6.0f} MB", flush=True)
        print(f"page     {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
