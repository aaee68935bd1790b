"""Selection by capability at the size of the paper's pool: CPU time as a multiple of one radix argsort, peak memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py                      # 2.6M rows, budgets 5, 10 and 30 %
    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py --rows 26000000 --budgets 10 --engines numba
    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py --folder --rows 2600000   # the released scorer's 15 JSONL files

The unit is `np.argsort(kind="stable")` of one uint16 key for each row, which numpy sorts by radix, in the same process.
Every figure is CPU time of one thread, the best of `--repeats`. Synthetic pool: 90 sources of log-normal size, 1 to 3 of
9 styles a row, 14 capabilities whose scores are mostly low, ids of 12 characters. `select` is the whole call: hashing the
ids, reading styles and scores, picking, reasons. Each configuration runs in a process of its own, so that the peak
memory is its own (it includes the table).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curation.selectors import get_selector
from curation.taxonomy import CAPABILITY_KEYS, STYLES

SELECTORS = ("mmssr", "mmssr_official")


def pool_table(rows: int, expected: bool, seed: int = 0) -> pa.Table:
    """row, id, source, styles, cap_<key> int8 and, with `expected`, exp_<key> float32."""
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(0.0, 1.5, 90)
    names = pa.array([f"source_{k:02d}" for k in range(90)])
    sources = pa.DictionaryArray.from_arrays(pa.array(rng.choice(90, rows, p=sizes / sizes.sum()).astype(np.int8)), names)
    columns = {"row": pa.array(np.arange(rows, dtype=np.int32)), "id": _ids(rng, rows), "source": sources.cast(pa.string()), "styles": _styles(rng, rows)}
    level = np.array([0.55, 0.15, 0.12, 0.1, 0.06, 0.02]).cumsum()
    for key in CAPABILITY_KEYS:
        score = np.searchsorted(level, rng.random(rows, np.float32) * level[-1]).clip(0, 5).astype(np.int8)
        columns[f"cap_{key}"] = pa.array(score)
        if expected:
            columns[f"exp_{key}"] = pa.array((score + rng.normal(0, 0.2, rows).astype(np.float32)).clip(0, 5))
    return pa.table(columns)


def _ids(rng: np.random.Generator, rows: int) -> pa.Array:
    letters = rng.integers(97, 123, (rows, 12), dtype=np.uint8)
    letters[:, :8] = (np.arange(rows)[:, None] // 10 ** np.arange(7, -1, -1) % 10 + 48).astype(np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * 12
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])


def _styles(rng: np.random.Generator, rows: int) -> pa.Array:
    counts = rng.choice([1, 2, 3], rows, p=[0.3, 0.5, 0.2])
    ends = np.concatenate([[0], counts.cumsum()])
    first, step = rng.integers(0, 9, rows), rng.integers(1, 9, rows)
    place = np.arange(ends[-1]) - ends[:-1].repeat(counts)
    codes = (first.repeat(counts) + np.minimum(place, 1) * step.repeat(counts) + np.maximum(place - 1, 0)) % 9
    names = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(list(STYLES)))
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), names.cast(pa.string()))


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of this process over `repeats` calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def measure(rows: int, budget: float, selector: str, engine: str, expected: bool, repeats: int) -> dict[str, float]:
    """One configuration: seconds of the sort and of the selection, peak memory in GB before and after it."""
    keys = np.random.default_rng(1).integers(0, 5000, rows).astype(np.uint16)
    unit = cpu_seconds(lambda: np.argsort(keys, kind="stable"), max(repeats, 3))
    table = pool_table(rows, expected)
    select = get_selector(selector)
    if engine == "numba":  # compile before anything is timed
        select(table.slice(0, 2000), 200, 0, engine=engine)
    before = _peak()
    spent = cpu_seconds(lambda: select(table, int(rows * budget), 0, engine=engine), repeats)
    return {"sort": unit, "select": spent, "table_gb": table.nbytes / 1e9, "before_gb": before, "peak_gb": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(rows: int, budgets: list[float], engines: list[str], selectors: list[str], repeats: int) -> None:
    """A line for each configuration, each measured in a process of its own."""
    for selector in selectors:
        for expected in (True, False) if selector == "mmssr" else (False,):
            for engine in engines:
                for budget in budgets:
                    job = {"rows": rows, "budget": budget / 100, "selector": selector, "engine": engine, "expected": expected, "repeats": repeats}
                    done = subprocess.run([sys.executable, __file__, "--one", json.dumps(job)], capture_output=True, text=True, check=True)
                    found = json.loads(done.stdout)
                    print(
                        f"{selector:15s} {'with exp_' if expected else 'cap_ only'} {engine:5s} {budget:g}% of {rows:,}: {found['select'] / found['sort']:5.1f} sorts "
                        f"({found['select']:.2f} s, sort {found['sort']:.3f} s), peak {found['peak_gb']:.2f} GB (table {found['table_gb']:.2f})",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_600_000)
    parser.add_argument("--budgets", type=float, nargs="+", default=[5, 10, 30], help="per cent")
    parser.add_argument("--engines", nargs="+", default=["numpy", "numba"])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(**json.loads(asked.one))))
    else:
        report(asked.rows, asked.budgets, asked.engines, asked.selectors, asked.repeats)


if __name__ == "__main__":
    main()
